// Ollama's own API: /api/chat, whole and as NDJSON, and /api/embed.
//
// Pure: asks in, requests out; answers in, neutral records out. The engine has neither TextDecoder nor Buffer, and needs
// neither: bodies and lines come as text.

// An absent option is null in one engine and undefined in another, and a u64 a number or a BigInt.
const given = (value) => value !== undefined && value !== null;
const maybe = (value) => (given(value) ? value : undefined);
const number = (value) => (given(value) ? Number(value) : undefined);
const json = (text, otherwise) => (text ? JSON.parse(text) : otherwise);
const refusal = (status, message, param) => ({ status, message, param, kind: undefined, code: undefined, retryAfterMs: undefined });
const text = (payload) => (payload.tag === 'text' ? payload.val : '');

function parse(source) {
  try {
    return JSON.parse(source);
  } catch (error) {
    throw refusal(502, `The body is not JSON: ${error.message}`);
  }
}

function plain(blocks) {
  const texts = blocks.filter(({ content }) => content.tag === 'text' || content.tag === 'refusal');
  return texts.map(({ content }) => content.val).join('\n');
}

function post(path, body, streamed, dropped = []) {
  return { method: 'POST', path, headers: [], body: { tag: 'text', val: JSON.stringify(body) }, streamed, dropped };
}

// One turn; results of tools are turns of their own.
function turns(message) {
  const out = [];
  for (const { content } of message.blocks) {
    if (content.tag !== 'tool-result') continue;
    const { name, content: parts } = content.val;
    const said = parts.map((part) => (part.tag === 'image' ? '' : part.val)).join('\n');
    out.push({ role: 'tool', tool_name: maybe(name), content: said });
  }
  const rest = message.blocks.filter(({ content }) => content.tag !== 'tool-result');
  if (rest.length === 0) return out;
  const turn = { role: message.role, content: plain(rest) };
  const images = [];
  for (const { content } of rest) {
    switch (content.tag) {
      case 'image':
        if (content.val.source.tag !== 'inline') throw refusal(400, 'Ollama takes images as bytes, not as addresses.', 'messages');
        images.push(content.val.source.val.data);
        break;
      case 'tool-call':
        turn.tool_calls ??= [];
        turn.tool_calls.push({ function: { name: content.val.name, arguments: json(content.val.arguments, {}) } });
        break;
      case 'reasoning':
        turn.thinking = (turn.thinking ?? '') + content.val.text;
        break;
      case 'audio':
      case 'file':
        throw refusal(400, 'Ollama takes text and images.', 'messages');
    }
  }
  if (images.length) turn.images = images;
  out.push(turn);
  return out;
}

function chat(ask) {
  if (given(ask.n) && ask.n > 1) throw refusal(400, 'Ollama gives one answer a request.', 'n');
  const dropped = [];
  const drop = (field, why) => dropped.push({ field, why });
  const messages = [];
  const system = plain(ask.system);
  if (system) messages.push({ role: 'system', content: system });
  for (const message of ask.messages) messages.push(...turns(message));
  const body = { model: ask.model, messages, stream: ask.streamed };
  const options = {
    num_predict: number(ask.maxTokens),
    temperature: number(ask.temperature),
    top_p: number(ask.topP),
    top_k: number(ask.topK),
    min_p: number(ask.minP),
    frequency_penalty: number(ask.frequencyPenalty),
    presence_penalty: number(ask.presencePenalty),
    seed: number(ask.seed),
    stop: ask.stop.length ? ask.stop : undefined,
  };
  if (Object.values(options).some((value) => value !== undefined)) body.options = options;
  let tools = ask.tools.filter(({ tag }) => tag === 'function').map(({ val }) => val);
  if (tools.length < ask.tools.length) drop('tools', 'only functions can be called');
  switch (ask.toolChoice?.tag) {
    case 'none':
      tools = [];
      break;
    case 'named':
      tools = tools.filter(({ name }) => name === ask.toolChoice.val);
      break;
    case 'allowed':
      tools = tools.filter(({ name }) => ask.toolChoice.val.includes(name));
      break;
    case 'required':
      drop('tool_choice', 'a call cannot be forced');
      break;
  }
  if (tools.length) {
    body.tools = tools.map(({ name, description, parameters }) => ({
      type: 'function',
      function: { name, description: maybe(description), parameters: json(parameters, { type: 'object' }) },
    }));
  }
  if (ask.output?.tag === 'json-object') body.format = 'json';
  if (ask.output?.tag === 'json-schema') body.format = json(ask.output.val.schema, 'json');
  if (ask.reasoning) {
    const { effort, budget } = ask.reasoning;
    body.think = !(effort === 'none' || number(budget) === 0);
  }
  if (ask.logprobs || given(ask.topLogprobs)) drop('logprobs', 'their form differs');
  if (given(ask.user)) drop('user', 'there is no such parameter');
  return post('/api/chat', body, ask.streamed, dropped);
}

const REASONS = { stop: 'stop', length: 'length' };

function usage(body) {
  if (body.prompt_eval_count === undefined && body.eval_count === undefined) return undefined;
  return {
    input: body.prompt_eval_count ?? 0,
    output: body.eval_count ?? 0,
    cacheRead: undefined,
    cacheWrite: undefined,
    reasoning: undefined,
  };
}

function finish(body, called) {
  const native = body.done_reason ?? 'stop';
  const reason = called && native === 'stop' ? 'tool-calls' : (REASONS[native] ?? 'error');
  return { reason, native, stopSequence: undefined };
}

const block = (content) => ({ content, cache: undefined, citations: '' });

// Ollama gives calls no ids; a client needs one to answer.
const callId = (index) => `call_${index}`;

function answer(body) {
  if (body.error) throw refusal(200, String(body.error));
  const message = body.message;
  if (!message) throw refusal(502, 'There is no `message` in the answer.');
  const blocks = [];
  if (message.thinking) blocks.push(block({ tag: 'reasoning', val: { text: message.thinking, signature: undefined, encrypted: undefined } }));
  if (message.content) blocks.push(block({ tag: 'text', val: message.content }));
  const calls = message.tool_calls ?? [];
  calls.forEach(({ function: called }, index) => {
    const val = { id: callId(index), name: called.name, arguments: JSON.stringify(called.arguments ?? {}), custom: false, signature: undefined };
    blocks.push(block({ tag: 'tool-call', val }));
  });
  const choice = { blocks, finish: finish(body, calls.length > 0), logprobs: '' };
  return { id: '', model: body.model ?? '', choices: [choice], usage: usage(body) };
}

class StreamDecoder {
  constructor() {
    this.calls = 0;
    this.started = false;
  }

  push(piece) {
    const body = parse(piece.val);
    if (body.error) return [{ tag: 'fault', val: refusal(200, String(body.error)) }];
    const events = [];
    if (!this.started) {
      this.started = true;
      events.push({ tag: 'start', val: { id: '', model: body.model ?? '' } });
    }
    const message = body.message ?? {};
    if (message.thinking) events.push({ tag: 'reasoning', val: message.thinking });
    if (message.content) events.push({ tag: 'text', val: message.content });
    for (const { function: called } of message.tool_calls ?? []) {
      const key = this.calls;
      events.push({ tag: 'tool-call', val: { key, id: callId(this.calls), name: called.name } });
      events.push({ tag: 'arguments', val: { key, arguments: JSON.stringify(called.arguments ?? {}) } });
      this.calls += 1;
    }
    if (body.done) {
      const counts = usage(body);
      if (counts) events.push({ tag: 'usage', val: counts });
      events.push({ tag: 'finish', val: finish(body, this.calls > 0) });
    }
    return events;
  }

  finish() {
    return [];
  }
}

export const adapter = {
  describe: () => ({
    title: 'Ollama',
    version: '0.1.0',
    auth: { tag: 'bearer' },
    operations: ['chat', 'embed'],
    framing: 'lines',
    suggestedBaseUrl: 'http://127.0.0.1:11434',
    models: [],
  }),
  init(config) {
    const known = json(config, {});
    const unknown = Object.keys(known)[0];
    if (unknown !== undefined) throw `there is no key \`${unknown}\`; it knows none`;
  },
  encode(what) {
    switch (what.tag) {
      case 'chat':
        return chat(what.val);
      case 'embed': {
        const { model, inputs, dimensions } = what.val;
        return post('/api/embed', { model, input: inputs, dimensions: number(dimensions) }, false);
      }
      default:
        throw refusal(400, 'Ollama does not rank.');
    }
  },
  decode(what, came) {
    const body = parse(text(came.body));
    if (what === 'chat') return { tag: 'chat', val: answer(body) };
    const vectors = body.embeddings;
    if (!Array.isArray(vectors)) throw refusal(502, 'There are no `embeddings` in the answer.');
    return { tag: 'embed', val: { model: body.model ?? '', vectors: vectors.map((vector) => new Float32Array(vector)), usage: usage(body) } };
  },
  decodeError(came) {
    const said = text(came.body);
    let message = said.slice(0, 200);
    try {
      message = String(JSON.parse(said).error ?? message);
    } catch {
      // A proxy's page; it stands as it is.
    }
    return refusal(came.status, message);
  },
  StreamDecoder,
};

// Lets models have only the tools that the operator allows.
//
// An ask loses every tool of another name, or is refused; an answer that calls one all the same is a failed try. Names are
// as in the allow-list, where one `*` stands for any letters. Streams are not looked at: what was not offered is called by
// nobody, and an answer that was made up is for the caller's program to refuse.

import { count } from 'portcullis:gateway/metrics@0.1.0';

const SCHEMA = {
  type: 'object',
  additionalProperties: false,
  required: ['allow'],
  properties: {
    allow: { type: 'array', items: { type: 'string', minLength: 1 } },
    action: { enum: ['remove', 'reject'], default: 'remove' },
  },
};

let allow = [];
let action = 'remove';

const nothing = { model: undefined, params: [], headers: [], system: undefined, messages: undefined, texts: [], text: undefined, body: undefined };

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
const pattern = (text) => new RegExp(`^${text.split('*').map(escaped).join('.*')}$`, 's');
const allowed = (name) => typeof name !== 'string' || allow.some((fits) => fits.test(name));

/** The name of a tool, where the caller's dialect has it; what the provider runs by itself goes by its type. */
const named = (tool) => tool?.function?.name ?? tool?.name ?? tool?.type;

/** The tools that may stay. Gemini lists functions inside a tool. */
function kept(tools) {
  return tools.flatMap((tool) => {
    const functions = tool?.functionDeclarations ?? tool?.function_declarations;
    if (!Array.isArray(functions)) return allowed(named(tool)) ? [tool] : [];
    const rest = functions.filter((one) => allowed(one?.name));
    if (rest.length === functions.length) return [tool];
    const key = tool.functionDeclarations ? 'functionDeclarations' : 'function_declarations';
    return rest.length ? [{ ...tool, [key]: rest }] : [];
  });
}

/** The names of the tools that an answer calls, in any dialect. */
function called(body) {
  const chat = (body.choices ?? []).flatMap((choice) => (choice.message?.tool_calls ?? []).map((call) => call.function?.name));
  const anthropic = (Array.isArray(body.content) ? body.content : []).filter((block) => block.type === 'tool_use').map((block) => block.name);
  const responses = (Array.isArray(body.output) ? body.output : []).filter((item) => item.type === 'function_call').map((item) => item.name);
  const gemini = (body.candidates ?? []).flatMap((one) => (one.content?.parts ?? []).map((part) => part.functionCall?.name));
  return [...chat, ...anthropic, ...responses, ...gemini].filter((name) => name !== undefined);
}

export const manifest = {
  describe: () => ({
    title: 'tool-guard',
    version: '0.1.0',
    description: 'Lets models have only the tools that the operator allows.',
    guard: true,
    stream: 'none',
    coalesce: undefined,
    tickMs: undefined,
    metrics: [{ name: 'refused_total', kind: 'counter', help: 'Tools that were refused.', labels: ['where'], buckets: [] }],
    config: JSON.stringify(SCHEMA),
  }),
  init(config) {
    const given = JSON.parse(config);
    allow = given.allow.map(pattern);
    action = given.action;
  },
};

export const onRequest = {
  handle(ask) {
    const tools = JSON.parse(ask.param('tools') ?? 'null');
    if (!Array.isArray(tools)) return { tag: 'pass' };
    const rest = kept(tools);
    if (JSON.stringify(rest) === JSON.stringify(tools)) return { tag: 'pass' };
    count('refused_total', 1, [{ name: 'where', value: 'ask' }]);
    if (action === 'reject') {
      const message = 'The request offers tools that this gateway does not allow; take them out.';
      return { tag: 'reject', val: { code: 'tool_refused', message, status: 403, retryAfterMs: undefined } };
    }
    // Without tools there is nothing to choose from; providers refuse the one without the other.
    const params = rest.length
      ? [{ name: 'tools', value: JSON.stringify(rest) }]
      : ['tools', 'tool_choice', 'toolConfig', 'parallel_tool_calls'].map((name) => ({ name, value: undefined }));
    return { tag: 'patch', val: { ...nothing, params } };
  },
};

export const onAnswer = {
  handle(ask, given) {
    const text = given.json();
    const body = text ? JSON.parse(text) : null;
    const wrong = body && typeof body === 'object' ? called(body).find((name) => !allowed(name)) : undefined;
    if (wrong === undefined) return { tag: 'pass' };
    count('refused_total', 1, [{ name: 'where', value: 'answer' }]);
    return { tag: 'fault', val: `The answer calls the tool \`${wrong}\`, which was not offered.` };
  },
};

// The openai package: chat completions and responses, as a program would use them.

import OpenAI from "openai";

import { INVOICE, WEATHER, getWeather } from "./things.mjs";

const connect = (job, fetch) =>
  new OpenAI({ baseURL: job.root + "/v1", apiKey: job.key, maxRetries: 0, timeout: 20_000, fetch });

const chatTools = [{ type: "function", function: { name: "get_weather", description: WEATHER.description, parameters: WEATHER.schema } }];
const responseTools = [{ type: "function", name: "get_weather", description: WEATHER.description, parameters: WEATHER.schema, strict: false }];

const chat = {
  async text(job, fetch) {
    const answer = await connect(job, fetch).chat.completions.create({
      model: job.model,
      messages: [{ role: "user", content: job.prompt }],
    });
    const choice = answer.choices[0];
    return { text: choice.message.content, finish: choice.finish_reason, usage: chatUsage(answer.usage) };
  },

  async stream(job, fetch) {
    const stream = await connect(job, fetch).chat.completions.create({
      model: job.model,
      messages: [{ role: "user", content: job.prompt }],
      stream: true,
      stream_options: { include_usage: true },
    });
    const said = { text: "", pieces: 0 };
    for await (const chunk of stream) {
      const choice = chunk.choices[0];
      if (choice?.delta.content) {
        said.text += choice.delta.content;
        said.pieces += 1;
      }
      if (choice?.finish_reason) said.finish = choice.finish_reason;
      if (chunk.usage) said.usage = chatUsage(chunk.usage);
    }
    return said;
  },

  async tools(job, fetch) {
    const runner = connect(job, fetch).chat.completions.runTools({
      model: job.model,
      messages: [{ role: "user", content: job.prompt }],
      stream: job.stream ?? false,
      tools: [{ ...chatTools[0], function: { ...chatTools[0].function, parse: JSON.parse, function: getWeather } }],
    });
    const text = await runner.finalContent();
    const calls = runner.messages.flatMap((message) => message.tool_calls ?? []);
    return { text, calls: calls.map((call) => ({ id: call.id, name: call.function.name, args: JSON.parse(call.function.arguments) })) };
  },

  async object(job, fetch) {
    const answer = await connect(job, fetch).chat.completions.parse({
      model: job.model,
      messages: [{ role: "user", content: job.prompt }],
      response_format: {
        type: "json_schema",
        json_schema: { name: "invoice", schema: INVOICE, strict: true },
      },
    });
    return { object: JSON.parse(answer.choices[0].message.content) };
  },

  async embeddings(job, fetch) {
    const answer = await connect(job, fetch).embeddings.create({ model: job.model, input: job.prompt });
    return { vector: answer.data[0].embedding, usage: answer.usage };
  },

  async models(job, fetch) {
    const ids = [];
    for await (const model of connect(job, fetch).models.list()) ids.push(model.id);
    return { ids };
  },

  // Reads two pieces and goes away.
  async leave(job, fetch) {
    const stream = await connect(job, fetch).chat.completions.create({
      model: job.model,
      messages: [{ role: "user", content: job.prompt }],
      stream: true,
    });
    let pieces = 0;
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta.content && ++pieces === 2) break;
    }
    return { pieces };
  },
};

const responses = {
  async text(job, fetch) {
    const answer = await connect(job, fetch).responses.create({ model: job.model, input: job.prompt, store: false });
    return { text: answer.output_text, finish: answer.status, usage: responseUsage(answer.usage) };
  },

  async stream(job, fetch) {
    const stream = connect(job, fetch).responses.stream({ model: job.model, input: job.prompt, store: false });
    const said = { text: "", pieces: 0 };
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") {
        said.text += event.delta;
        said.pieces += 1;
      }
    }
    const answer = await stream.finalResponse();
    if (answer.output_text !== said.text) throw new Error("the deltas do not add up to the answer");
    return { ...said, finish: answer.status, usage: responseUsage(answer.usage) };
  },

  async tools(job, fetch) {
    const client = connect(job, fetch);
    const input = [{ role: "user", content: job.prompt }];
    const ask = { model: job.model, input, tools: responseTools, store: false };
    const first = job.stream ? await client.responses.stream(ask).finalResponse() : await client.responses.create(ask);
    const calls = first.output.filter((item) => item.type === "function_call");
    input.push(...first.output);
    for (const call of calls) {
      input.push({ type: "function_call_output", call_id: call.call_id, output: getWeather(JSON.parse(call.arguments)) });
    }
    const second = job.stream ? await client.responses.stream(ask).finalResponse() : await client.responses.create(ask);
    return {
      text: second.output_text,
      calls: calls.map((call) => ({ id: call.call_id, name: call.name, args: JSON.parse(call.arguments) })),
    };
  },

  async object(job, fetch) {
    const answer = await connect(job, fetch).responses.parse({
      model: job.model,
      input: job.prompt,
      store: false,
      text: { format: { type: "json_schema", name: "invoice", schema: INVOICE, strict: true } },
    });
    return { object: JSON.parse(answer.output_text) };
  },
};

const chatUsage = (usage) => usage && { input: usage.prompt_tokens, output: usage.completion_tokens };
const responseUsage = (usage) => usage && { input: usage.input_tokens, output: usage.output_tokens };

export const clients = { "openai-chat": chat, "openai-responses": responses };

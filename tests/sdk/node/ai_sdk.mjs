// The ai package with four of its providers: one set of tasks, because to its users they all look alike.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, embed, generateObject, generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import { z } from "zod";

import { WEATHER, getWeather } from "./things.mjs";

// What they warn about is not what is judged here, and standard output carries the answers.
globalThis.AI_SDK_LOG_WARNINGS = false;

const MODELS = {
  "ai-compatible": ({ root, key, model }, fetch) =>
    createOpenAICompatible({ name: "gateway", baseURL: root + "/v1", apiKey: key, includeUsage: true, supportsStructuredOutputs: true, fetch })(model),
  "ai-openai": ({ root, key, model }, fetch) => createOpenAI({ baseURL: root + "/v1", apiKey: key, fetch })(model),
  "ai-anthropic": ({ root, key, model }, fetch) => createAnthropic({ baseURL: root + "/v1", apiKey: key, fetch })(model),
  "ai-google": ({ root, key, model }, fetch) => createGoogleGenerativeAI({ baseURL: root + "/v1beta", apiKey: key, fetch })(model),
};

const weather = tool({
  description: WEATHER.description,
  inputSchema: jsonSchema(WEATHER.schema),
  execute: async (input) => getWeather(input),
});

const invoice = z.object({ number: z.string(), total: z.number(), lines: z.array(z.string()) });

const usageOf = (usage) => ({ input: usage.inputTokens, output: usage.outputTokens });

function tasks(makeModel) {
  const base = (job, fetch) => ({
    model: makeModel(job, fetch),
    prompt: job.prompt,
    maxRetries: 0,
    maxOutputTokens: 4096,
    abortSignal: AbortSignal.timeout(20_000),
  });
  return {
    async text(job, fetch) {
      const answer = await generateText(base(job, fetch));
      return { text: answer.text, reasoning: answer.reasoningText ?? "", finish: answer.finishReason, usage: usageOf(answer.usage) };
    },

    async stream(job, fetch) {
      let failure = null;
      const stream = streamText({ ...base(job, fetch), onError: ({ error }) => { failure ??= error; } });
      const said = { text: "", pieces: 0 };
      for await (const piece of stream.textStream) {
        said.text += piece;
        said.pieces += 1;
      }
      if (failure) throw failure;
      return { ...said, finish: await stream.finishReason, usage: usageOf(await stream.usage) };
    },

    async tools(job, fetch) {
      const ask = { ...base(job, fetch), tools: { get_weather: weather }, stopWhen: isStepCount(3) };
      let answer;
      if (job.stream) {
        let failure = null;
        answer = streamText({ ...ask, onError: ({ error }) => { failure ??= error; } });
        await answer.consumeStream();
        if (failure) throw failure;
      } else {
        answer = await generateText(ask);
      }
      const steps = await answer.steps;
      const calls = steps.flatMap((step) => step.toolCalls);
      return {
        text: await answer.text,
        steps: steps.length,
        calls: calls.map((call) => ({ id: call.toolCallId, name: call.toolName, args: call.input })),
      };
    },

    async object(job, fetch) {
      const answer = await generateObject({ ...base(job, fetch), schema: invoice });
      return { object: answer.object };
    },

    async output(job, fetch) {
      const answer = await generateText({ ...base(job, fetch), output: Output.object({ schema: invoice }) });
      return { object: answer.output };
    },
  };
}

export const clients = Object.fromEntries(Object.entries(MODELS).map(([name, make]) => [name, tasks(make)]));

clients["ai-compatible"].embeddings = async ({ root, key, model, prompt }, fetch) => {
  const provider = createOpenAICompatible({ name: "gateway", baseURL: root + "/v1", apiKey: key, fetch });
  const answer = await embed({ model: provider.embeddingModel(model), value: prompt, maxRetries: 0 });
  return { vector: answer.embedding };
};

// Runs one job a line: {client, task, root, key, model, …} in, {ok | error, exchange} out. One process serves a session.

import { createInterface } from "node:readline";

import * as aiSdk from "./ai_sdk.mjs";
import * as openai from "./openai.mjs";

const CLIENTS = { ...openai.clients, ...aiSdk.clients };

/** A fetch that remembers the gateway's id of the last exchange and how often it was called. */
function watchedFetch(seen) {
  return async (url, options) => {
    seen.requests += 1;
    const response = await fetch(url, options);
    seen.exchange = response.headers.get("x-portcullis-id");
    return response;
  };
}

async function run(job) {
  const seen = { requests: 0, exchange: null };
  try {
    const client = CLIENTS[job.client];
    if (!client?.[job.task]) throw new Error(`no ${job.task} in ${job.client}`);
    return { ok: await client[job.task](job, watchedFetch(seen)), ...seen };
  } catch (error) {
    return { error: told(error), ...seen };
  }
}

/** What a program that catches the error could look at. */
function told(error) {
  const cause = error.cause ?? error.lastError;
  return {
    class: error.constructor?.name,
    name: error.name,
    status: error.status ?? error.statusCode ?? cause?.statusCode ?? null,
    type: error.type ?? error.data?.error?.type ?? null,
    code: error.code ?? error.data?.error?.code ?? null,
    message: String(error.message ?? error),
    retryable: error.isRetryable ?? null,
    cause: cause ? String(cause.message ?? cause) : null,
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await run(JSON.parse(line))) + "\n");
}

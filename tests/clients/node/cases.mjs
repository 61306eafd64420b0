// The `openai` client for Node, one case per line of standard input; what it heard, as one line of JSON each.
// The cases are those of `python_sdks.py`, in this client's own words. It knows nothing of the sidecar.

import { createInterface } from "node:readline";
import OpenAI from "openai";

const tools = [{ type: "function", function: { name: "add", parameters: { type: "object", properties: {} } } }];

async function* recorded(body, answer) {
  for await (const piece of body) {
    answer.payload = Buffer.concat([answer.payload, piece]);
    yield piece;
  }
}

// `fetch` as it is, and a copy of what it gives: the client reads the very bytes that are written down.
function recording(answers) {
  return async (url, options) => {
    const response = await fetch(url, options);
    const answer = { status: response.status, fields: [...response.headers], payload: Buffer.alloc(0) };
    answers.push(answer);
    const body = response.body && ReadableStream.from(recorded(response.body, answer));
    return new Response(body, { status: response.status, headers: response.headers });
  };
}

async function collect(stream, heard, early) {
  const called = new Map();
  for await (const chunk of stream) {
    const delta = chunk.choices[0]?.delta ?? {};
    heard.text += delta.content ?? "";
    for (const call of delta.tool_calls ?? []) {
      const known = called.get(call.index) ?? { name: "", arguments: "" };
      known.name += call.function.name ?? "";
      known.arguments += call.function.arguments ?? "";
      called.set(call.index, known);
    }
    if (early) break;
  }
  heard.calls = [...called.values()].map((call) => [call.name, JSON.parse(call.arguments)]);
}

async function run({ kind, base_url, model, question, headers, timeout }) {
  const heard = { text: "", calls: [], error: "", answers: [] };
  const client = new OpenAI({
    apiKey: "sk-secret",
    baseURL: `${base_url}/v1`,
    defaultHeaders: headers,
    maxRetries: kind === "retry" ? 1 : 0,
    timeout: timeout * 1000,
    fetch: recording(heard.answers),
  });
  const asked = { model, messages: [{ role: "user", content: question }] };
  if (kind.startsWith("tools")) asked.tools = tools;
  try {
    if (kind === "stream" || kind === "tools-stream" || kind === "early-stop") {
      const options = { ...asked, stream: true, stream_options: { include_usage: true } };
      await collect(await client.chat.completions.create(options), heard, kind === "early-stop");
    } else {
      const { message } = (await client.chat.completions.create(asked)).choices[0];
      heard.text = message.content ?? "";
      heard.calls = (message.tool_calls ?? []).map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
    }
  } catch (error) {
    heard.error = error.constructor.name;
  }
  for (const answer of heard.answers) answer.payload = answer.payload.toString("base64");
  return heard;
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await run(JSON.parse(line))));
}

// Drives the server with OpenAI's own JavaScript client; prints what it got as JSON.
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const [baseURL] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];

const whole = await client.chat.completions.create({ model: "nano", messages, max_tokens: 30 });
let streamed = "";
for await (const chunk of await client.chat.completions.create({ model: "nano", messages, max_tokens: 30, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content || "";
}
const speech = await client.audio.speech.create({ model: "nano", voice: "nova", input: "Hello.", response_format: "wav" });
const sound = Buffer.from(await speech.arrayBuffer());
let refused;
try {
  await client.chat.completions.create({ model: "nobody", messages });
} catch (error) {
  refused = { status: error.status, code: error.code };
}

const live = await new Promise((resolve, reject) => {
  const kinds = [];
  const realtime = new OpenAIRealtimeWS({ model: "nano" }, client);
  realtime.on("event", (event) => kinds.push(event.type));
  realtime.on("error", reject);
  realtime.on("session.created", () => {
    realtime.send({ type: "session.update", session: { type: "realtime", output_modalities: ["text"] } });
    realtime.send({ type: "conversation.item.create", item: { type: "message", role: "user", content: [{ type: "input_text", text: messages[0].content }] } });
    realtime.send({ type: "response.create" });
  });
  realtime.on("response.done", (event) => {
    realtime.close();
    resolve({ kinds, text: event.response.output[0].content[0].text });
  });
});

console.log(JSON.stringify({ whole: whole.choices[0].message.content, streamed, sound: sound.length, refused, live }));

// The stream of events: asks for it with the token, reads it, and asks again when it ends.

const TOKEN = "sidecar-token";
const SENDABLE = /^[!-~]*$/; // what SIDECAR_ADMIN_TOKEN may be; a browser refuses to send some of the rest
const SILENCE = 15_000; // figures come once a second, to a crowd once in a few

export class Unauthorized extends Error {}

export async function ask(path, signal) {
  const token = sessionStorage.getItem(TOKEN);
  if (token && !SENDABLE.test(token)) throw new Unauthorized();
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, signal, cache: "no-store" });
  if (answer.status === 401) throw new Unauthorized();
  return answer;
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token.trim());
}

export class Feed {
  // `told(event, document)` gets each event; `state(word)` what has become of the connection.
  constructor({ told, state, needToken }) {
    this.told = told;
    this.state = state;
    this.needToken = needToken;
    this.abort = new AbortController();
  }

  async run() {
    for (let pause = 500; ; pause = Math.min(pause * 2, 5000)) {
      try {
        if (await this.once()) pause = 250;
      } catch (error) {
        if (error instanceof Unauthorized) {
          await this.needToken();
          pause = 0;
        }
      }
      this.state("reconnecting");
      await new Promise((resume) => setTimeout(resume, pause));
    }
  }

  // Reads one connection to its end, or until it is silent for too long; says whether it told anything.
  async once() {
    this.abort = new AbortController();
    this.listen();
    try {
      const answer = await ask("/live/events", this.abort.signal);
      return answer.ok && (await this.read(answer.body.pipeThrough(new TextDecoderStream()).getReader()));
    } finally {
      clearTimeout(this.silence);
    }
  }

  listen() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.again(), SILENCE);
  }

  async read(reader) {
    let text = "";
    let any = false;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return any;
      this.listen();
      text += value;
      const frames = text.split("\n\n");
      text = frames.pop();
      for (const frame of frames) {
        if (frame.startsWith(":")) continue;
        const [event, data] = frame.split("\n");
        this.told(event.slice("event: ".length), JSON.parse(data.slice("data: ".length)));
        any = true;
      }
    }
  }

  again() {
    this.abort.abort();
  }
}

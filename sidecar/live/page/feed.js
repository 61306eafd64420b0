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

  // After a connection that told something the next one follows soon, after others ever later; where somebody wants it, at once.
  async run() {
    for (let pause = 0; ; ) {
      this.any = this.wanted = false;
      try {
        await this.once();
      } catch (error) {
        if (error instanceof Unauthorized) {
          await this.needToken();
          this.wanted = true;
        }
      }
      if (this.wanted) pause = 0;
      else pause = this.any ? 250 : Math.min(Math.max(pause * 2, 500), 5000);
      this.state("reconnecting");
      await new Promise((resume) => setTimeout(resume, pause));
    }
  }

  // Reads one connection to its end, or until it is silent for too long; `any` says whether it told anything.
  async once() {
    this.abort = new AbortController();
    this.listen();
    try {
      const answer = await ask("/live/events", this.abort.signal);
      if (answer.ok) await this.read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
    } finally {
      clearTimeout(this.silence);
    }
  }

  listen() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.abort.abort(), SILENCE);
  }

  async read(reader) {
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.listen();
      text += value;
      const frames = text.split("\n\n");
      text = frames.pop();
      for (const frame of frames) {
        if (frame.startsWith(":")) continue;
        const [event, data] = frame.split("\n");
        this.told(event.slice("event: ".length), JSON.parse(data.slice("data: ".length)));
        this.any = true;
      }
    }
  }

  // Ends this connection for a new one, which is told everything.
  again() {
    this.wanted = true;
    this.abort.abort();
  }
}

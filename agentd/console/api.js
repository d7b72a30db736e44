// The native API of the daemon that sent this page. The token is a variable of this module and nothing else.

export const root = new URL(".", location.href);

let token = null;

// Told ("denied") when the daemon no longer takes the token.
export const access = new EventTarget();

export function useToken(given) {
  token = given;
}

// An answer that says no. retryAfter: seconds, NaN where it does not say.
export class Refused extends Error {
  constructor(status, body, retryAfter) {
    super(body?.error?.message ?? body?.error ?? body?.detail ?? body?.title ?? `The daemon answered with ${status}.`);
    this.name = "Refused";
    this.status = status;
    this.code = body?.code ?? "";
    this.reason = body?.error_detail?.reason ?? "";
    this.retryable = status === 429 || status >= 500 || body?.retryable === true;
    this.retryAfter = retryAfter;
  }
}

export class Unreachable extends Error {
  constructor() {
    super("The daemon cannot be reached.");
    this.name = "Unreachable";
    this.retryable = true;
  }
}

// Percent-encoded; a byte that is no UTF-8 came as a lone surrogate (PEP 383) and goes back as that byte.
export function quote(text) {
  return text
    .split(/([\udc80-\udcff])/u)
    .map((piece, at) => (at % 2 ? `%${(piece.charCodeAt(0) - 0xdc00).toString(16)}` : encodeURIComponent(piece)))
    .join("");
}

export function address(path, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const search = pairs.map(([name, value]) => `${name}=${quote(String(value))}`).join("&");
  return `${new URL(path, root)}${search && `?${search}`}`;
}

function authorized(headers) {
  return token === null ? { ...headers } : { ...headers, Authorization: `Bearer ${token}` };
}

function refusal(status, text, retryAfter) {
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy's own answer: its status has to do.
  }
  if (status === 401) access.dispatchEvent(new Event("denied"));
  return new Refused(status, body, Number.parseFloat(retryAfter));
}

// The answer, whatever its status. Raises Unreachable, and AbortError where the signal says so.
export async function send(method, url, { headers = {}, body, signal } = {}) {
  try {
    return await fetch(url, {
      ...{ method, body, signal, headers: authorized(headers) },
      ...{ cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer" },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
}

// A good answer. path: relative to the daemon's root. json: an object to send.
export async function request(method, path, { query, json, headers = {}, signal } = {}) {
  const typed = json === undefined ? headers : { ...headers, "Content-Type": "application/json" };
  const answer = await send(method, address(path, query), {
    headers: typed,
    signal,
    body: json && JSON.stringify(json),
  });
  if (!answer.ok) throw refusal(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer;
}

// What a good answer says in JSON; null where it has no body.
export async function call(method, path, options) {
  const answer = await request(method, path, options);
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

// The values of an NDJSON answer, as they come.
export async function* lines(path, options = {}) {
  const headers = { Accept: "application/x-ndjson" };
  const answer = await request("GET", path, { ...options, headers });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const found = (rest + value).split("\n");
      rest = found.pop();
      for (const line of found) if (line) yield JSON.parse(line);
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new Unreachable();
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Sends bytes, and tells how many have gone out: fetch cannot tell that. JSON, or null.
export function put(path, body, { query, headers = {}, signal, onprogress } = {}) {
  return new Promise((resolve, reject) => {
    const asked = new XMLHttpRequest();
    const aborted = () => asked.abort();
    const settle = (result) => (value) => {
      signal?.removeEventListener("abort", aborted);
      result(value);
    };
    asked.open("PUT", address(path, query));
    for (const [name, value] of Object.entries(authorized(headers))) asked.setRequestHeader(name, value);
    asked.upload.onprogress = (event) => onprogress?.(event.loaded);
    asked.onerror = () => settle(reject)(new Unreachable());
    asked.onabort = () => settle(reject)(new DOMException("stopped", "AbortError"));
    asked.onload = () => {
      if (asked.status < 200 || asked.status >= 300)
        settle(reject)(refusal(asked.status, asked.responseText, asked.getResponseHeader("Retry-After")));
      else settle(resolve)(asked.responseText ? JSON.parse(asked.responseText) : null);
    };
    if (signal?.aborted) return (aborted(), settle(reject)(new DOMException("stopped", "AbortError")));
    signal?.addEventListener("abort", aborted);
    asked.send(body);
  });
}

// A WebSocket: its URL holds a ticket for one channel and a few seconds, never the token.
export async function socket(channel) {
  const ticket = await call("POST", "v1/ws-ticket", { json: { channel } });
  const url = new URL(address("v1/ws", { channel, file_token: ticket.token }));
  url.protocol = url.protocol.replace("http", "ws");
  return new WebSocket(url);
}

// Has the browser save what a signed URL leads to: a file of any size, without passing through this page.
export async function download(path, name) {
  const { url } = await call("POST", "v1/files/download-url", { json: { path, expires_in: 300 } });
  const link = document.createElement("a");
  link.href = `${new URL("v1/file", root)}${new URL(url).search}`;
  link.download = name;
  link.click();
}

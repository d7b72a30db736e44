// Uploads: files and folders on their way into the sandbox, in parts that survive a pause, a lost connection and a
// restart of the daemon. Nothing here touches the page.

import { Refused, call, put } from "./api.js";
import { archive } from "./tar.js";

const AT_ONCE = 4; // parts, of all uploads together; a browser opens six connections
const WHOLE = 8 * 2 ** 20; // bytes up to which a file goes in one request
const LONGEST_WAIT = 5000;
const RATE_WINDOW = 4000; // milliseconds over which the rate is taken
const RATE_LEAST = 800; // and below which there is none to tell

// Lets so many in at a time, in the order they came.
class Gate {
  constructor(places) {
    this.places = places;
    this.waiting = [];
  }

  async enter(signal) {
    if (this.places > 0) {
      this.places -= 1;
    } else {
      await new Promise((resolve, reject) => {
        const entry = { resolve, left: false };
        this.waiting.push(entry);
        const leave = () => {
          entry.left = true;
          reject(new DOMException("stopped", "AbortError"));
        };
        signal.addEventListener("abort", leave, { once: true });
      });
    }
    if (signal.aborted) {
      this.leave();
      throw new DOMException("stopped", "AbortError");
    }
  }

  leave() {
    this.places += 1;
    let next;
    while ((next = this.waiting.shift())) {
      if (next.left) continue;
      this.places -= 1;
      next.resolve();
      return;
    }
  }
}

function identifier() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function sha256(content) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    signal.addEventListener("abort", stop, { once: true });
  });
}

// state: waiting, sending, retrying, publishing, paused, done, failed or cancelled. sent: bytes, those on the way too.
export class Upload {
  constructor(owner, { name, target, file, entries, conflict }) {
    const packed = entries && archive(entries);
    Object.assign(this, { owner, name, target, conflict });
    this.folder = Boolean(entries);
    this.blob = packed ? packed.blob : file;
    this.ends = packed ? packed.ends : [];
    this.size = this.blob.size;
    this.state = "waiting";
    this.error = "";
    this.session = null;
    this.key = identifier();
    this.accepted = new Set();
    this.flying = new Map();
    this.stop = new AbortController();
  }

  get whole() {
    return !this.folder && this.size <= WHOLE && this.conflict !== "error" && !this.session;
  }

  get active() {
    return ["waiting", "sending", "retrying", "publishing"].includes(this.state);
  }

  get sent() {
    if (this.state === "done" || this.state === "publishing") return this.size;
    let total = 0;
    for (const number of this.accepted) total += this.span(number)[1] - this.span(number)[0];
    for (const bytes of this.flying.values()) total += bytes;
    return Math.min(total, this.size);
  }

  // How many of a folder's files have arrived, taken from the beginning of the archive.
  get files() {
    let next = 0;
    while (this.accepted.has(next)) next += 1;
    const reached = this.state === "done" ? this.size : this.session ? this.span(next)[0] : 0;
    let low = 0;
    let high = this.ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle].end <= reached) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  span(number) {
    const size = this.session?.part_size ?? this.size;
    return [Math.min(number * size, this.size), Math.min((number + 1) * size, this.size)];
  }

  become(state, error = "") {
    this.state = state;
    this.error = error;
    this.owner.changed();
  }

  // Goes on from wherever it stands, until it is done, fails or is stopped.
  async run() {
    this.stop = new AbortController();
    this.failure = null;
    this.become("waiting");
    const { signal } = this.stop;
    try {
      await this.owner.uploads.enter(signal);
      try {
        this.become("sending");
        await (this.whole ? this.sendWhole(signal) : this.sendParts(signal));
      } finally {
        this.owner.uploads.leave();
      }
      this.become("done");
      this.owner.finished(this);
    } catch (error) {
      this.flying.clear();
      const cause = this.failure ?? error;
      if (cause.name === "AbortError") return;
      const unreadable = cause.name === "NotReadableError" || cause.name === "NotFoundError";
      this.become("failed", unreadable ? "The file changed or can no longer be read." : cause.message);
    }
  }

  async sendWhole(signal) {
    const query = { path: this.target, conflict: this.conflict };
    await this.part(0, signal, async (onprogress) => {
      await put("v1/file", await this.blob.arrayBuffer(), { query, signal, onprogress });
    });
  }

  async sendParts(signal) {
    await this.open(signal);
    if (this.session.status !== "completed") {
      const missing = [];
      for (let number = 0; number < this.session.part_count; number += 1)
        if (!this.accepted.has(number)) missing.push(number);
      const senders = Array.from({ length: Math.min(AT_ONCE, this.session.max_concurrency) }, async () => {
        for (let number = missing.shift(); number !== undefined; number = missing.shift())
          await this.sendPart(number, signal);
      });
      await Promise.all(senders);
    }
    this.become("publishing");
    const path = `v1/uploads/${this.session.upload_id}/complete`;
    await this.insist(signal, () => call("POST", path, { json: {}, signal }), "publishing");
  }

  // Finds the session, or makes one; what it has already is not sent again.
  async open(signal) {
    if (this.session) {
      const path = `v1/uploads/${this.session.upload_id}`;
      this.session = await this.insist(signal, () => call("GET", path, { signal }));
    } else {
      const wanted = {
        kind: this.folder ? "directory_tar" : "file",
        source_kind: this.folder ? "directory_archive" : "restartable_file",
        archive_format: this.folder ? "tar" : null,
        target_path: this.target,
        content_length: this.size,
        conflict: this.conflict,
      };
      const headers = { "Idempotency-Key": this.key };
      const made = await this.insist(signal, () => call("POST", "v1/uploads", { json: wanted, headers, signal }));
      this.session = made.session;
    }
    const { status, next_part: next, part_count: parts } = this.session;
    if (["aborted", "expired", "failed"].includes(status)) {
      this.session = null;
      this.accepted.clear();
      throw new Error(`The daemon says that this upload is ${status}; try again to begin anew.`);
    }
    for (let number = 0; number < (next ?? parts); number += 1) this.accepted.add(number);
  }

  async sendPart(number, signal) {
    const slice = this.blob.slice(...this.span(number));
    const path = `v1/uploads/${this.session.upload_id}/parts/${number}`;
    await this.part(number, signal, async (onprogress) => {
      const headers = { "Content-Type": "application/octet-stream" };
      const body = await slice.arrayBuffer();
      // Browsers have digests only where the page came over TLS or from this machine.
      if (crypto.subtle) headers["x-nullspace-part-sha256"] = await sha256(body);
      await put(path, body, { headers, signal, onprogress });
    });
  }

  async part(number, signal, job) {
    const watch = (sent) => {
      this.flying.set(number, sent);
      this.owner.changed();
    };
    await this.insist(signal, async () => {
      await this.owner.parts.enter(signal);
      try {
        this.flying.set(number, 0);
        await job(watch);
        this.accepted.add(number);
      } finally {
        this.flying.delete(number);
        this.owner.parts.leave();
      }
    });
  }

  // Repeats a job for as long as it may still succeed.
  async insist(signal, job, state = "sending") {
    for (let tries = 0; ; tries += 1) {
      try {
        const result = await job();
        if (this.state !== state && !signal.aborted) this.become(state);
        return result;
      } catch (error) {
        if (signal.aborted) throw new DOMException("stopped", "AbortError");
        if (!error.retryable) {
          this.failure = error;
          this.stop.abort();
          throw error;
        }
        this.become("retrying", error.message);
        const asked = error instanceof Refused && error.retryAfter > 0 ? error.retryAfter * 1000 : 0;
        const wait = Math.max(asked, Math.min(LONGEST_WAIT, 250 * 2 ** tries));
        await pause(wait * (0.75 + Math.random() / 2), signal);
      }
    }
  }

  hold() {
    if (!this.active || this.state === "publishing") return;
    this.stop.abort();
    this.become("paused");
  }

  async cancel() {
    const { session } = this;
    this.stop.abort();
    this.become("cancelled");
    this.session = null;
    if (session) await call("DELETE", `v1/uploads/${session.upload_id}`);
  }
}

// All uploads of this page. changed(): called whenever something is to be shown anew. finished(upload): after each.
export class Uploads {
  constructor(changed, finished) {
    this.changed = changed;
    this.finished = finished;
    this.items = [];
    this.parts = new Gate(AT_ONCE);
    this.uploads = new Gate(AT_ONCE);
    this.samples = [];
  }

  add(wanted) {
    this.begin(new Upload(this, wanted));
  }

  begin(upload) {
    // What was done before a rest says nothing about the rate.
    if (!this.items.some((item) => item.active)) this.samples = [];
    this.items.push(upload);
    upload.run();
  }

  // Goes on with a session of the daemon that another page, or this one before it was closed, has begun.
  adopt(session, wanted) {
    const upload = new Upload(this, { ...wanted, target: session.target_path, conflict: session.conflict });
    if (upload.size !== session.content_length)
      throw new Error("This is not what the upload was begun with: it has another size.");
    upload.session = session;
    this.begin(upload);
  }

  forget() {
    this.items = this.items.filter((item) => !["done", "failed", "cancelled"].includes(item.state));
    this.changed();
  }

  get totals() {
    const counted = this.items.filter((item) => item.state !== "cancelled");
    const sum = (of) => counted.reduce((total, item) => total + of(item), 0);
    const totals = { sent: sum((item) => item.sent), size: sum((item) => item.size), count: counted.length };
    totals.done = counted.filter((item) => item.state === "done").length;
    totals.active = counted.filter((item) => item.active).length;
    totals.rate = this.rate(totals.sent);
    return totals;
  }

  // Bytes per second, of the last few.
  rate(sent) {
    const now = performance.now();
    if (this.samples.length && sent < this.samples.at(-1).sent) this.samples = [];
    this.samples.push({ now, sent });
    while (this.samples.length > 2 && now - this.samples[0].now > RATE_WINDOW) this.samples.shift();
    const first = this.samples[0];
    return now - first.now > RATE_LEAST ? ((sent - first.sent) * 1000) / (now - first.now) : 0;
  }
}

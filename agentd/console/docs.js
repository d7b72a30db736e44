// The API as the daemon describes it (OpenAPI 3.1), with a try for each operation.

import { address, call, quote, send } from "./api.js";
import { button, bytes, fail, h, table } from "./dom.js";
import { resolve, sample, shape } from "./schema.js";

const METHODS = ["get", "head", "put", "post", "patch", "delete"];
const MOST = 200_000; // bytes of an answer that are shown

// The operations of a description. One that stands at several mounts with all the same words is one, with `aliases`.
function operations(doc) {
  const found = new Map();
  for (const [path, methods] of Object.entries(doc.paths))
    for (const method of METHODS) {
      const operation = methods[method];
      if (!operation) continue;
      const plain = path.replace(/^\/v1\/(machines|sandboxes)\/\{\w+\}(?=\/)/, "/v1");
      const key = `${method} ${doc.paths[plain]?.[method]?.summary === operation.summary ? plain : path}`;
      const known = found.get(key);
      if (!known || path.length < known.path.length)
        found.set(key, { key, method, path, operation, aliases: [...(known ? [known.path, ...known.aliases] : [])] });
      else known.aliases.push(path);
    }
  return [...found.values()];
}

function topic(path) {
  const steps = path.split("/").filter((step) => step && !step.startsWith("{") && !/^v\d+$/.test(step));
  return steps[0] ?? "";
}

export function view(app) {
  const docs = new Map();
  let doc = null;
  let found = [];
  let current = null;

  const dialect = h("select", { id: "dialect", onchange: () => app.go(`docs#${dialect.value}`) });
  const filter = h("input", {
    id: "filter",
    type: "search",
    placeholder: "Find a path or a word",
    autocomplete: "off",
    spellcheck: false,
    oninput: draw,
  });
  const list = h("ul", { class: "list operations", "aria-label": "Operations", onkeydown: move });
  const detail = h("article", { class: "detail" });
  const raw = button("download", "Save this description", save, { text: "openapi.json" });
  const element = h(
    "section",
    { class: "view wide docs", "aria-label": "API" },
    h(
      "div",
      { class: "side" },
      h("div", { class: "bar" }, h("label", { for: "dialect", class: "hidden" }, "API"), dialect, raw),
      h("label", { for: "filter", class: "hidden" }, "Find"),
      filter,
      list,
    ),
    detail,
  );

  async function show(rest) {
    if (!dialect.options.length) {
      const whole = await call("GET", "openapi.json");
      const names = new Set(
        Object.values(whole.paths).flatMap((methods) => Object.values(methods).flatMap((one) => one.tags ?? [])),
      );
      docs.set("agentd", { ...whole, paths: only(whole, "agentd") });
      const rank = (name) => ({ nullspace: 0, agentd: 2 })[name] ?? 1;
      dialect.append(
        ...[...names].sort((one, other) => rank(one) - rank(other)).map((name) => h("option", { value: name }, name)),
      );
    }
    const [name, key] = rest.split("!");
    await open(name || dialect.options[0].value);
    choose(found.find((one) => one.key === key) ?? (current && found.includes(current) ? current : null));
  }

  function only(whole, name) {
    const own = ([, methods]) => Object.values(methods).some((one) => one.tags?.includes(name));
    return Object.fromEntries(Object.entries(whole.paths).filter(own));
  }

  async function open(name) {
    if (!docs.has(name)) docs.set(name, await call("GET", `${quote(name)}/openapi.json`));
    dialect.value = name;
    if (doc === docs.get(name)) return;
    doc = docs.get(name);
    found = operations(doc);
    draw();
  }

  function draw() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = ({ method, path, operation }) =>
      words.every((word) => `${method} ${path} ${operation.summary}`.toLowerCase().includes(word));
    const groups = new Map();
    for (const one of found.filter(fits)) {
      const name = topic(one.path);
      if (!groups.has(name)) groups.set(name, [h("li", { class: "group" }, name)]);
      const link = h(
        "button",
        {
          type: "button",
          "aria-pressed": String(one === current),
          title: one.operation.summary,
          onclick: () => app.go(`docs#${quote(dialect.value)}!${quote(one.key)}`),
        },
        h("span", { class: `method ${one.method}` }, one.method),
        h("code", {}, one.path),
      );
      link.dataset.key = one.key;
      groups.get(name).push(h("li", {}, link));
    }
    const rows = [...groups.values()].flat();
    list.replaceChildren(...(rows.length ? rows : [h("li", { class: "empty" }, "Nothing fits.")]));
  }

  function choose(one) {
    current = one;
    element.classList.toggle("split", Boolean(one));
    for (const link of list.querySelectorAll("button"))
      link.setAttribute("aria-pressed", String(link.dataset.key === one?.key));
    if (!one) {
      const intro = `${doc.info.title} ${doc.info.version} · ${found.length} operations of ${dialect.value}`;
      return detail.replaceChildren(h("p", { class: "empty" }, `${intro}. Choose one to read it and to try it.`));
    }
    detail.replaceChildren(...described(one));
    detail.scrollTop = 0;
  }

  function described({ method, path, operation, aliases }) {
    const body = operation.requestBody?.content ?? {};
    const parameters = (operation.parameters ?? []).map((one) => resolve(one, doc));
    const back = button("close", "Back to the list", () => app.go(`docs#${dialect.value}`), { class: "bare back" });
    return [
      h(
        "div",
        { class: "head" },
        h("h2", {}, h("span", { class: `method ${method}` }, method), " ", h("code", {}, path)),
        back,
      ),
      h("p", {}, operation.summary ?? ""),
      aliases.length
        ? h(
            "p",
            { class: "muted" },
            "Also at ",
            aliases.map((one, at) => [at ? " and " : "", h("code", {}, one)]),
            ".",
          )
        : null,
      parameters.length
        ? section(
            "Parameters",
            table(
              ["Name", "In", "Type", ""],
              parameters.map((one) => [
                h("code", {}, one.name, one.required ? "" : "?"),
                one.in,
                h("code", {}, shape(one.schema ?? {}, doc)),
                one.description ?? one.schema?.description ?? "",
              ]),
            ),
          )
        : null,
      ...Object.entries(body).map(([type, { schema }]) =>
        section(
          `Body: ${type}`,
          schema ? h("pre", { tabIndex: 0 }, shape(schema, doc)) : h("p", { class: "muted" }, "Bytes as they are."),
        ),
      ),
      trial(method, path, parameters, body, operation),
      section(
        "Answers",
        Object.entries(operation.responses ?? {}).map(([status, given]) => answer(status, resolve(given, doc))),
      ),
    ].filter(Boolean);
  }

  function answer(status, given) {
    const good = status < 400;
    const content = good ? Object.entries(given.content ?? {}) : [];
    return h(
      "div",
      { class: "answer" },
      h("strong", { class: good ? "good" : "bad" }, status),
      h("p", {}, given.description ?? ""),
      content.map(([type, { schema }]) =>
        h("pre", { tabIndex: 0 }, schema && Object.keys(schema).length ? shape(schema, doc) : type),
      ),
    );
  }

  function section(title, ...children) {
    return h("section", {}, h("h3", {}, title), children);
  }

  // A form for one call, with the token of this page.
  function trial(method, path, parameters, body, operation) {
    if (operation.responses?.["101"])
      return section("Try it", h("p", { class: "muted" }, "This is a WebSocket; the terminals of the console use it."));
    const fields = parameters.map((one, at) => {
      const id = `try-${at}`;
      const value = one.in === "path" ? "" : (one.schema?.default ?? "");
      const input = h("input", {
        id,
        type: "text",
        required: Boolean(one.required),
        placeholder: String(value),
        autocomplete: "off",
        spellcheck: false,
      });
      return {
        ...one,
        input,
        row: h(
          "div",
          { class: "field" },
          h("label", { for: id }, h("code", {}, one.name), one.required ? " (required)" : ""),
          input,
        ),
      };
    });
    const type = Object.keys(body).find((one) => one.includes("json")) ?? Object.keys(body)[0];
    const json = type?.includes("json");
    const text =
      type &&
      h(
        "textarea",
        { id: "try-body", rows: json ? 6 : 2, spellcheck: false },
        json ? JSON.stringify(sample(body[type].schema ?? {}, doc), null, 2) : "",
      );
    const go = h(
      "button",
      { type: "submit", class: method === "delete" ? "danger" : "primary" },
      `Send ${method.toUpperCase()}`,
    );
    const stop = button("close", "Stop", () => asked?.abort(), { text: "Stop", hidden: true });
    const result = h("div", { class: "result", role: "status" });
    let asked = null;
    const form = h(
      "form",
      {},
      fields.map((one) => one.row),
      text ? h("div", { class: "field" }, h("label", { for: "try-body" }, `Body (${type})`), text) : null,
      h("div", { class: "line" }, go, stop),
    );
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      asked = new AbortController();
      stop.hidden = false;
      try {
        await attempt();
      } catch (error) {
        if (error.name === "AbortError") result.append(h("p", { class: "muted" }, "Stopped."));
        else result.replaceChildren(h("p", { class: "problem" }, error.message));
      } finally {
        stop.hidden = true;
      }
    });

    async function attempt() {
      const given = (where) =>
        fields.filter((one) => one.in === where && one.input.value !== "").map((one) => [one.name, one.input.value]);
      const steps = Object.fromEntries(given("path"));
      const where = path.slice(1).replace(/\{(\w+)\}/g, (_, name) => quote(steps[name] ?? ""));
      const headers = Object.fromEntries(given("header"));
      const content = text && text.value !== "" ? text.value : undefined;
      if (content !== undefined) headers["Content-Type"] = type;
      const begun = performance.now();
      const got = await send(method.toUpperCase(), address(where, Object.fromEntries(given("query"))), {
        headers,
        body: content,
        signal: asked.signal,
      });
      const shown = h("pre", { tabIndex: 0, "aria-label": "The answer's body" });
      const facts = [got.headers.get("Content-Type"), `${Math.round(performance.now() - begun)} ms`]
        .filter(Boolean)
        .join(" · ");
      result.replaceChildren(
        h(
          "p",
          {},
          h("strong", { class: got.ok ? "good" : "bad" }, `${got.status} ${got.statusText}`),
          h("span", { class: "muted" }, ` ${facts}`),
        ),
        shown,
      );
      await read(got, shown);
    }

    return section("Try it", form, result);
  }

  async function read(got, shown) {
    const decoder = new TextDecoder();
    let length = 0;
    const reader = got.body?.getReader();
    while (reader && length < MOST) {
      const { done, value } = await reader.read();
      if (done) break;
      length += value.length;
      shown.append(decoder.decode(value, { stream: true }));
    }
    if (length >= MOST) {
      reader.cancel().catch(() => {});
      shown.append(`\n[cut after ${bytes(length)}]`);
    } else if (got.headers.get("Content-Type")?.includes("json") && length) {
      try {
        shown.textContent = JSON.stringify(JSON.parse(shown.textContent), null, 2);
      } catch {
        // Lines of JSON are shown as they came.
      }
    }
    if (!length) shown.remove();
  }

  function save() {
    const url = URL.createObjectURL(new Blob([JSON.stringify(doc, null, 2)], { type: "application/json" }));
    h("a", { href: url, download: `openapi-${dialect.value}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  function move(event) {
    const rows = [...list.querySelectorAll("button")];
    const next = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const to = next && rows[rows.indexOf(event.target) + next];
    if (!to) return;
    event.preventDefault();
    to.focus();
  }

  return { element, show: (rest) => show(rest).catch(fail) };
}

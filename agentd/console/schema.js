// JSON Schemas (OpenAPI 3.1) as a person reads them, and values that fit them.

const INDENT = "  ";

export function resolve(schema, doc) {
  for (let steps = 0; schema?.$ref && steps < 20; steps += 1) {
    const { $ref, ...rest } = schema;
    const target = $ref
      .replace(/^#\//, "")
      .split("/")
      .reduce((at, key) => at?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], doc);
    schema = { ...target, ...rest };
  }
  return schema ?? {};
}

function bounds(schema) {
  const found = [];
  const { minimum: low, maximum: high, exclusiveMinimum: above, maxLength, minLength, maxItems } = schema;
  if (low !== undefined) found.push(`≥ ${low}`);
  if (above !== undefined) found.push(`> ${above}`);
  if (high !== undefined && high < 2 ** 53) found.push(`≤ ${high}`);
  if (minLength) found.push(`at least ${minLength} long`);
  if (maxLength) found.push(`at most ${maxLength} long`);
  if (maxItems) found.push(`at most ${maxItems}`);
  return found.length ? ` (${found.join(", ")})` : "";
}

// Like a type of TypeScript, on several lines where it is an object. within: the names of those it stands in.
export function shape(given, doc, depth = 0, within = []) {
  const name = given?.$ref?.split("/").at(-1);
  if (name && within.includes(name)) return name;
  const schema = resolve(given, doc);
  const inside = name ? [...within, name] : within;
  const pad = INDENT.repeat(depth + 1);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.map((one) => shape(one, doc, depth, inside)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.prefixItems) return `[${schema.prefixItems.map((one) => shape(one, doc, depth, inside)).join(", ")}]`;
  if (schema.type === "array") return `${grouped(shape(schema.items ?? {}, doc, depth, inside))}[]`;
  if (schema.properties) {
    const required = schema.required ?? [];
    const lines = Object.entries(schema.properties).map(([key, value]) => {
      const plain = value.default === undefined ? "" : ` = ${JSON.stringify(value.default)}`;
      const note = value.description ? `  // ${value.description}` : "";
      return `${pad}${key}${required.includes(key) ? "" : "?"}: ${shape(value, doc, depth + 1, inside)}${plain}${note}`;
    });
    return `{\n${lines.join("\n")}\n${INDENT.repeat(depth)}}`;
  }
  if (schema.type === "object") {
    const values = schema.additionalProperties;
    return values && typeof values === "object" ? `{[name]: ${shape(values, doc, depth, inside)}}` : "object";
  }
  const type = Array.isArray(schema.type) ? schema.type.join(" | ") : (schema.type ?? "any");
  return `${type}${schema.format ? ` <${schema.format}>` : ""}${bounds(schema)}`;
}

function grouped(text) {
  return text.includes(" | ") && !text.startsWith("{") ? `(${text})` : text;
}

// A value to begin with: what is required, and no more.
export function sample(given, doc, depth = 0) {
  const schema = resolve(given, doc);
  if (schema.default !== undefined) return schema.default;
  if (schema.const !== undefined) return schema.const;
  if (schema.enum) return schema.enum[0];
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return sample(choices[0], doc, depth);
  if (schema.type === "object") {
    const required = depth < 6 ? (schema.required ?? []) : [];
    return Object.fromEntries(required.map((key) => [key, sample(schema.properties[key], doc, depth + 1)]));
  }
  if (schema.type === "array") return [];
  if (schema.type === "integer" || schema.type === "number") return schema.minimum ?? 0;
  if (schema.type === "boolean") return false;
  return schema.type === "null" ? null : "";
}

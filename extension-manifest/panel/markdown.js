// Markdown as DOM nodes. What a model writes never becomes HTML: every piece ends as a text node.

import { copyButton, h } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(?:\s+(.*)|)$/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const DEEPEST = 8; // lists and quotes within each other
const LINK = /^https?:\/\//i;

/**
 * @param {string} text
 * @param {(number: number) => Node|null} [cite] what stands in the place of [1]
 * @returns {DocumentFragment}
 */
export function markdown(text, cite) {
  const fragment = document.createDocumentFragment();
  fragment.append(...blocks(text.replace(/\r\n?/g, "\n").split("\n"), cite, 0));
  return fragment;
}

/** Renders a text that grows: what cannot change any more is left alone. */
export class GrowingMarkdown {
  #settled = 0; // characters that are rendered for good
  #text = "";

  constructor(element, cite) {
    this.element = element;
    this.cite = cite;
    this.tail = h("div", { className: "tail" });
    element.replaceChildren(this.tail);
  }

  update(text) {
    this.#text = text;
    const boundary = settledUpTo(text, this.#settled);
    if (boundary > this.#settled) {
      this.tail.before(markdown(text.slice(this.#settled, boundary), this.cite));
      this.#settled = boundary;
    }
    this.tail.replaceChildren(markdown(text.slice(this.#settled), this.cite));
  }

  /** All of it once more, as one text. */
  finish() {
    this.element.replaceChildren(markdown(this.#text, this.cite));
  }
}

/** Behind the last empty line, outside code, after which a plain paragraph begins. */
function settledUpTo(text, from) {
  let fence = null;
  let boundary = from;
  let at = from;
  let blank = false;
  while (at < text.length) {
    const end = text.indexOf("\n", at);
    if (end < 0) break; // a line that still grows may become anything
    const line = text.slice(at, end);
    if (fence) {
      if (closes(line, fence)) fence = null;
      blank = false;
    } else {
      if (blank && line.trim() && !/^\s/.test(line) && !ITEM.test(line)) boundary = at;
      fence = FENCE.exec(line)?.[1] ?? null;
      blank = !line.trim();
    }
    at = end + 1;
  }
  return boundary;
}

const closes = (line, fence) =>
  new RegExp(`^ {0,3}\\${fence[0]}{${fence.length},}\\s*$`).test(line);

function blocks(lines, cite, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    let match;
    if (!line.trim()) {
      at += 1;
    } else if ((match = FENCE.exec(line))) {
      const code = [];
      at += 1;
      while (at < lines.length && !closes(lines[at], match[1])) code.push(lines[at++]);
      at += 1;
      found.push(codeBlock(code.join("\n"), match[2]));
    } else if ((match = HEADING.exec(line))) {
      // The page has its own first levels.
      found.push(h(`h${Math.min(match[1].length + 2, 6)}`, {}, ...inline(match[2], cite)));
      at += 1;
    } else if (RULE.test(line)) {
      found.push(h("hr"));
      at += 1;
    } else if (QUOTE.test(line) && depth < DEEPEST) {
      const inside = [];
      while (at < lines.length && QUOTE.test(lines[at])) {
        inside.push(lines[at++].replace(QUOTE, ""));
      }
      found.push(h("blockquote", {}, ...blocks(inside, cite, depth + 1)));
    } else if (ITEM.test(line) && depth < DEEPEST) {
      const [list, next] = listAt(lines, at, cite, depth);
      found.push(list);
      at = next;
    } else if (
      line.includes("|") &&
      TABLE_RULE.test(lines[at + 1] ?? "") &&
      lines[at + 1].includes("-")
    ) {
      const rows = [];
      while (at < lines.length && lines[at].includes("|")) rows.push(cells(lines[at++]));
      found.push(table(rows, cite));
    } else {
      const paragraph = [];
      do paragraph.push(lines[at++].trim());
      while (at < lines.length && lines[at].trim() && !interrupts(lines[at], depth));
      found.push(h("p", {}, ...inline(paragraph.join("\n"), cite)));
    }
  }
  return found;
}

const interrupts = (line, depth) =>
  FENCE.test(line) ||
  HEADING.test(line) ||
  RULE.test(line) ||
  (depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line)));

function listAt(lines, start, cite, depth) {
  const [, , mark] = ITEM.exec(lines[start]);
  const ordered = /\d/.test(mark);
  const indent = ITEM.exec(lines[start])[1].length;
  const list = h(ordered ? "ol" : "ul");
  if (ordered && Number.parseInt(mark, 10) !== 1) list.start = Number.parseInt(mark, 10);
  let at = start;
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || item[1].length < indent || /\d/.test(item[2]) !== ordered) break;
    const inside = [item[3] ?? ""];
    const inner = item[1].length + item[2].length + 1;
    at += 1;
    while (at < lines.length) {
      const line = lines[at];
      const next = ITEM.exec(line);
      if (next && next[1].length < indent + 2) break;
      if (!line.trim()) {
        const after = lines[at + 1] ?? "";
        if (!/^\s{2,}\S/.test(after)) break;
      } else if (!/^\s/.test(line) && interrupts(line, depth)) break;
      inside.push(line.startsWith(" ".repeat(inner)) ? line.slice(inner) : line.trimStart());
      at += 1;
    }
    const content = blocks(inside, cite, depth + 1);
    // A single paragraph needs no element of its own.
    const plain =
      content[0]?.tagName === "P" ? [...content[0].childNodes, ...content.slice(1)] : content;
    list.append(h("li", {}, ...plain));
    let next = at;
    while (next < lines.length && !lines[next].trim()) next += 1;
    const more = ITEM.exec(lines[next] ?? "");
    if (more && more[1].length >= indent && /\d/.test(more[2]) === ordered) at = next;
  }
  return [list, at];
}

function codeBlock(code, language) {
  const head = h("div", { className: "code-head" }, h("span", {}, language || "code"));
  head.append(copyButton(() => code, "Copy code"));
  // It scrolls sideways, so the keyboard has to reach it.
  const body = h(
    "pre",
    { tabIndex: 0, "aria-label": `Code ${language}`.trim() },
    h("code", {}, code),
  );
  return h("div", { className: "code" }, head, body);
}

const cells = (line) =>
  line
    .trim()
    .replace(/^\||\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));

function table([head, , ...rows], cite) {
  const row = (tag, values) =>
    h("tr", {}, ...values.map((value) => h(tag, {}, ...inline(value, cite))));
  return h(
    "div",
    { className: "table", tabIndex: 0, role: "region", "aria-label": "Table" },
    h(
      "table",
      {},
      h("thead", {}, row("th", head)),
      h("tbody", {}, ...rows.map((r) => row("td", r))),
    ),
  );
}

// Code first: nothing within it means anything. Each kind has one group before its content.
const INLINE = new RegExp(
  [
    /(?<ticks>`+)(?<code>[^`]|[^`].*?[^`])\k<ticks>(?!`)/,
    /\\(?<escaped>[\\`*_{}[\]()#+.!|~<>-])/,
    /!?\[(?<label>[^[\]]*)\]\((?<target>[^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)/,
    /\[(?<cited>\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*)\](?!\()/,
    /<(?<angled>https?:\/\/[^\s<>]+)>/,
    /(?<bare>https?:\/\/[^\s<>()[\]"'`]+[^\s<>()[\]"'`.,;:!?*_])/,
    /(?<strong>\*\*|__)(?=\S)(?<bold>.+?)(?<=\S)\k<strong>/,
    /~~(?=\S)(?<struck>.+?)(?<=\S)~~/,
    /\*(?=\S)(?<starred>[^*]+?)(?<=\S)\*(?!\*)/,
    /(?<![\p{L}\p{N}_])_(?=\S)(?<scored>[^_]+?)(?<=\S)_(?![\p{L}\p{N}_])/,
  ]
    .map((part) => part.source)
    .join("|"),
  "gsu",
);

function inline(text, cite, depth = 0) {
  const nodes = [];
  let last = 0;
  if (depth < DEEPEST) {
    for (const match of text.matchAll(INLINE)) {
      const node = inlineNode(match, cite, depth + 1);
      if (node === null) continue;
      pushText(nodes, text.slice(last, match.index));
      nodes.push(...node);
      last = match.index + match[0].length;
    }
  }
  pushText(nodes, text.slice(last));
  return nodes;
}

function inlineNode({ 0: whole, groups: g }, cite, depth) {
  if (g.code !== undefined) return [h("code", {}, g.code.trim() || g.code)];
  if (g.escaped !== undefined) return [g.escaped];
  if (g.label !== undefined) return [link(g.target, inline(g.label, undefined, depth), whole)];
  if (g.cited !== undefined) return cite ? citations(g.cited, cite) : null;
  if (g.angled !== undefined) return [link(g.angled, [g.angled], whole)];
  if (g.bare !== undefined) return [link(g.bare, [g.bare], whole)];
  if (g.bold !== undefined) return [h("strong", {}, ...inline(g.bold, cite, depth))];
  if (g.struck !== undefined) return [h("del", {}, ...inline(g.struck, cite, depth))];
  return [h("em", {}, ...inline(g.starred ?? g.scored, cite, depth))];
}

/** Anything but http and https stays what it is: text. */
function link(target, label, whole) {
  if (!LINK.test(target) || !URL.canParse(target)) return whole;
  const properties = { href: target, target: "_blank", rel: "noopener noreferrer nofollow" };
  return h("a", { ...properties, title: target }, ...(label.length ? label : [target]));
}

function citations(said, cite) {
  const nodes = said
    .split(/[,;]/)
    .flatMap((part) => {
      const [first, last = first] = part.split(/[–-]/).map((number) => Number(number.trim()));
      return Array.from(
        { length: Math.min(Math.max(last - first + 1, 1), 20) },
        (_, n) => first + n,
      );
    })
    .map(cite);
  return nodes.every(Boolean) ? nodes : null;
}

function pushText(nodes, text) {
  if (!text) return;
  // Two spaces at the end of a line, or a backslash, break it; other line ends are spaces.
  text.split(/(?: {2,}|\\)\n/).forEach((line, index) => {
    if (index) nodes.push(h("br"));
    nodes.push(line);
  });
}

// What runs in the tab. The browser copies each function there by its text, so each stands alone.

/** The page as it is now: address, title, and its HTML without what is not read. */
export function readPage() {
  const copy = document.documentElement.cloneNode(true);
  const unread =
    "script,style,noscript,template,svg,canvas,iframe,object,embed,link,input,textarea";
  for (const element of copy.querySelectorAll(unread)) element.remove();
  return { url: location.href.replace(/#.*/s, ""), title: document.title, html: copy.outerHTML };
}

/** Where the tab is, so that nothing is marked in another page. */
export function whereAmI() {
  return location.href.replace(/#.*/s, "");
}

/**
 * Mark a passage and scroll to it; whether it was found. Of its sentences the one that has most of
 * the words of `claim` is marked once more. The passage is text that was taken out of
 * the page, so white space, punctuation and Markdown differ: letters and digits alone are compared,
 * first of all of it, then line by line and sentence by sentence, and at last in runs of words.
 */
export function highlightPassage(passage, claim, passageName, sentenceName) {
  const LETTER = /[\p{L}\p{N}]/u;
  const SKIPPED = new Set([
    "SCRIPT",
    "STYLE",
    "NOSCRIPT",
    "TEMPLATE",
    "TEXTAREA",
    "SELECT",
    "OPTION",
  ]);
  const RUN = 6; // words

  const letters = (text) => {
    let found = "";
    for (const character of text.normalize("NFKC").toLowerCase()) {
      if (LETTER.test(character)) found += character;
    }
    return found;
  };

  // The page's letters, and for each where it stands.
  let page = "";
  const nodes = [];
  const starts = []; // of each node, in `page`
  const places = []; // offset in its node of each letter
  const seen = new Map();
  const visible = (element) => {
    if (!element) return true;
    if (!seen.has(element)) {
      const shown = !SKIPPED.has(element.tagName) && element.checkVisibility();
      seen.set(element, shown);
    }
    return seen.get(element);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!visible(node.parentElement)) continue;
    nodes.push(node);
    starts.push(page.length);
    let offset = 0;
    for (const character of node.data) {
      const plain = letters(character);
      for (let i = 0; i < plain.length; i += 1) places.push(offset);
      page += plain;
      offset += character.length;
    }
  }

  const nodeAt = (index) => {
    let [low, high] = [0, starts.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= index) low = middle;
      else high = middle - 1;
    }
    return nodes[low];
  };
  const rangeOf = (start, length) => {
    const range = document.createRange();
    const last = start + length - 1;
    const end = nodeAt(last);
    const width = end.data.codePointAt(places[last]) > 0xffff ? 2 : 1;
    range.setStart(nodeAt(start), places[start]);
    range.setEnd(end, places[last] + width);
    return range;
  };

  const spans = [];
  const find = (text, from) => {
    const wanted = letters(text);
    if (wanted.length < 3) return from;
    let at = page.indexOf(wanted, from);
    if (at < 0) at = page.indexOf(wanted);
    if (at < 0) return -1;
    spans.push([at, wanted.length]);
    return at + wanted.length;
  };
  const wanted = passage.replace(/\]\([^)\s]*\)/g, "]"); // where links lead is not to be seen
  if (find(wanted, 0) < 0) {
    let from = 0;
    const pieces = wanted.split(/\n+/).flatMap((line) => {
      const whole = letters(line);
      return whole && page.includes(whole) ? [line] : line.split(/(?<=[.!?。！？])\s+/);
    });
    for (const piece of pieces) {
      const next = find(piece, from);
      if (next >= 0) {
        from = next;
        continue;
      }
      const words = piece.split(/\s+/);
      for (let at = 0; at + RUN <= words.length; at += RUN) {
        from = Math.max(from, find(words.slice(at, at + RUN).join(" "), from));
      }
    }
  }
  // A word that stands alone in many places marks nothing.
  const longest = Math.max(0, ...spans.map(([, length]) => length));
  const kept = spans.filter(([, length]) => length >= Math.min(12, longest));
  CSS.highlights.delete(passageName);
  CSS.highlights.delete(sentenceName);
  if (!kept.length) return false;
  const ranges = kept.map(([start, length]) => rangeOf(start, length));
  CSS.highlights.set(passageName, new Highlight(...ranges));

  const wordsOf = (text) => new Set(text.toLowerCase().match(/[\p{L}\p{N}]{3,}/gu) ?? []);
  const claimed = wordsOf(claim);
  let [best, most] = ["", 1]; // more words than one
  for (const sentence of wanted.split(/\n+|(?<=[.!?。！？])\s+/)) {
    const common = [...wordsOf(sentence)].filter((word) => claimed.has(word)).length;
    if (common > most) [best, most] = [sentence, common];
  }
  const plain = letters(best);
  const at = plain ? page.indexOf(plain, kept[0][0]) : -1;
  if (at >= 0) {
    const exact = new Highlight(rangeOf(at, plain.length));
    exact.priority = 1;
    CSS.highlights.set(sentenceName, exact);
    ranges.unshift(...exact);
  }
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const first = ranges[0].startContainer.parentElement;
  first?.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
  return true;
}

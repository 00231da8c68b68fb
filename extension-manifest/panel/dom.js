// Elements by hand. Text is always text: there is no way from here to HTML.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  menu: "M3 5h14M3 10h14M3 15h9",
  plus: "M10 4v12M4 10h12",
  send: "M10 16V4M4.5 9.5 10 4l5.5 5.5",
  stop: "M6 6h8v8H6z",
  copy: "M7 7V4h9v9h-3M4 7h9v9H4z",
  check: "M4 10.5 8 15l8-9.5",
  again: "M15.5 7A6 6 0 1 0 16 11M16 3.5V7h-3.5",
  page: "M5 3h7l3 3v11H5zM12 3v3h3M8 10h4M8 13h4",
  pencil: "M4 16l.8-3.4L13 4.4l2.6 2.6-8.2 8.2zM11.5 6l2.6 2.6",
  bin: "M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6",
  close: "M5 5l10 10M15 5 5 15",
  warning: "M10 3.5 17.5 16.5h-15zM10 8v4M10 14.4v.2",
  gear: "M4 6h7M15 6h1M4 14h1M9 14h7M11 4h4v4h-4zM5 12h4v4H5z",
};

/** An element. Properties that start with `on` are listeners, `aria-*` and `data-*` attributes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({
    viewBox: "0 0 20 20",
    width: 16,
    height: 16,
    "aria-hidden": "true",
    class: "icon",
  }))
    svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon; `label` is what it is called, also as a tooltip. */
export function iconButton(name, label, onclick, properties = {}) {
  const { className = "", ...rest } = properties;
  return h(
    "button",
    {
      type: "button",
      title: label,
      "aria-label": label,
      onclick,
      className: `ghost ${className}`,
      ...rest,
    },
    icon(name),
  );
}

/** Copies what `text()` gives when it is pressed, and says so for a moment. */
export function copyButton(text, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    await navigator.clipboard.writeText(text());
    button.replaceChildren(icon("check"));
    announce("Copied");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** Have a screen reader say it, once. */
export function announce(text) {
  const place = document.getElementById("announcer");
  place.textContent = "";
  setTimeout(() => (place.textContent = text), 50);
}

export function show(element, visible) {
  element.hidden = !visible;
}

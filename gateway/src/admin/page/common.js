// What both pages need: building elements, keeping lists in step with data, following the live stream, writing numbers.
// Data becomes text, never markup: nothing here or elsewhere assigns innerHTML.

export const byId = (id) => document.getElementById(id);

/** An element: `el("p", {class: "note", "data-pod": "kubia-a"}, "text", child)`. Properties that are functions are listeners. */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Sets what has changed only, so that screen readers and selections are left alone. */
export function setText(element, text) {
  text = String(text);
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Makes the children of `parent` those of `items`, in order. An element is made once for each key, and updated afterwards. */
export function sync(parent, items, key, create, update) {
  const known = (parent.known ??= new Map());
  const kept = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    if (kept.has(id)) continue;
    kept.add(id);
    let element = known.get(id);
    if (!element) known.set(id, (element = create(item)));
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
    update(element, item);
  }
  for (const [id, element] of known) {
    if (kept.has(id)) continue;
    element.remove();
    known.delete(id);
  }
}

/** A map that forgets what is oldest: a page may stay open for weeks. */
export class Recent extends Map {
  constructor(limit) {
    super();
    this.limit = limit;
  }

  set(key, value) {
    super.delete(key);
    super.set(key, value);
    if (this.size > this.limit) super.delete(this.keys().next().value);
    return this;
  }
}

/**
 * Follows /live. `on` has `state(view)`, `tail(events)` and `status(connected)`; the browser connects anew by itself.
 * It gives up where the answer is no stream (a proxy's error page), so then we do it.
 */
export function follow(filter, on) {
  let source = null;
  let again = 0;
  const open = () => {
    source = new EventSource("/live" + (filter ? `?filter=${encodeURIComponent(filter)}` : ""));
    source.addEventListener("open", () => on.status(true));
    source.addEventListener("error", () => {
      on.status(false);
      if (source?.readyState === EventSource.CLOSED) again = setTimeout(open, 3000);
    });
    source.addEventListener("state", (event) => on.state?.(JSON.parse(event.data)));
    source.addEventListener("tail", (event) => on.tail?.(JSON.parse(event.data)));
  };
  open();
  return () => {
    clearTimeout(again);
    source?.close();
    source = null;
  };
}

/** `plural(2, "pod")` is "2 pods". */
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** `list(["a", "b", "c"])` is "a, b and c". */
export const list = (names) =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;

const whole = new Intl.NumberFormat("en");
export const number = (value) => whole.format(value);

/** A rate: one decimal where it matters. */
export const rate = (value) => (value >= 99.95 ? number(Math.round(value)) : value.toFixed(1));

export function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 999.5 && unit + 1 < units.length) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.5 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function milliseconds(value) {
  if (value < 9.95) return `${value.toFixed(1)} ms`;
  if (value < 9999.5) return `${Math.round(value)} ms`;
  return duration(value / 1000);
}

export function duration(seconds) {
  if (seconds < 100) return `${Math.floor(seconds)} s`;
  if (seconds < 6000) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

/** The wall clock, to the second. */
export const clockSeconds = (unixMs) => new Date(unixMs).toLocaleTimeString("en-GB");

/** The wall clock, to the millisecond. */
export function clock(unixMs) {
  const date = new Date(unixMs);
  return `${clockSeconds(unixMs)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** The port of "127.0.0.1:54321" or "[::1]:54321". */
export const portOf = (address) => address.slice(address.lastIndexOf(":") + 1);

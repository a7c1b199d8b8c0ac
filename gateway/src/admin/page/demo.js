// The demo page: pods, their controls, lanes, and the logs that prove it right.

import { byId, el, follow, number, plural, setText, sync } from "./common.js";
import { Lane } from "./lane.js";
import * as sentences from "./sentences.js";
import { Tail } from "./tail.js";

/** The state is asked for at most so often, in ms. */
const REFRESH = 1000;

/** Without an answer for so long, in ms, there is nobody. */
const PATIENCE = 5000;

/** Colours there are for pods, and as many again with stripes; see style.css. */
const COLOURS = 6;

/** How long a lane waits for the stream before it sends, in steps of so many ms. */
const STREAM_STEPS = 20;
const STREAM_STEP = 25;

/** Numbers are for people, and the mark tells this page's requests from those of other pages and curl. */
const newMark = () => Math.random().toString(36).slice(2, 6).padEnd(4, "0");

const cors = { credentials: "omit" };

/**
 * Browsers have separate connections for requests with and without credentials. Lane B asks with them in order not to find
 * the connection that lane A left open.
 */
const apart = { credentials: "include" };

const KINDS = [
  {
    ...cors,
    id: "a",
    title: "Service, asked by a browser",
    about: "A NodePort of Service kubia-nodeport. The browser decides when to open a connection.",
    layer: "service",
    urls: (lanes) => [lanes.nodePort],
    apps: ["kubia"],
    buttons: ["one", "twenty", "atOnce"],
    sentence: sentences.service,
  },
  {
    ...apart,
    id: "b",
    title: "The same Service, as curl asks",
    about: "Each answer ends its connection, as when curl is run anew for each request.",
    layer: "service",
    close: true,
    urls: (lanes) => [lanes.nodePort],
    apps: ["kubia"],
    buttons: ["one", "twenty"],
    sentence: sentences.service,
  },
  {
    ...cors,
    id: "c",
    title: "Service with ClientIP affinity",
    about: "sessionAffinity: ClientIP. Each answer ends its connection, as with curl.",
    layer: "service",
    close: true,
    affinity: "ClientIP",
    urls: (lanes) => [lanes.clientIp],
    apps: ["kubia"],
    buttons: ["one", "twenty"],
    sentence: sentences.service,
  },
  {
    ...cors,
    id: "d",
    title: "Ingress",
    about: "The gateway ends the browser's connection, reads each request, and has connections of its own to the pods.",
    layer: "ingress",
    urls: (lanes) => [lanes.ingress],
    apps: ["kubia"],
    buttons: ["one", "twenty", "atOnce"],
    sentence: sentences.ingress,
  },
  {
    credentials: "include",
    id: "e",
    title: "Ingress with cookie affinity",
    about: "The Ingress sets a cookie, and the browser brings it again. No Service can do that.",
    layer: "ingress",
    report: true,
    urls: (lanes) => [lanes.cookie],
    apps: ["kubia"],
    buttons: ["one", "twenty", "forget"],
    sentence: sentences.cookie,
  },
  {
    ...cors,
    id: "f",
    title: "Ingress: two hosts, two paths",
    about: "One address for two Services, kubia and quiz. Requests take the three URLs in turn.",
    layer: "ingress",
    showTarget: true,
    urls: (lanes) => lanes.hosts,
    apps: ["kubia", "quiz"],
    buttons: ["one", "twenty"],
    sentence: sentences.hosts,
    trouble: namesMissing,
  },
  {
    ...cors,
    id: "g",
    title: "Ingress over HTTP/2",
    about: "Over TLS browsers may speak HTTP/2, which carries many requests at once on one connection.",
    layer: "ingress",
    urls: (lanes) => [lanes.http2],
    apps: ["kubia"],
    buttons: ["one", "atOnce"],
    sentence: sentences.http2,
    trouble: certificateUnknown,
  },
];

/** Whether all of a lane's requests failed although Tidegate and its pods are there. */
const onlyFails = ({ facts, kind, demo }) =>
  facts.failed > 0 && !facts.answered && !facts.refusals && demo.tail.connected && demo.living(...kind.apps).length > 0;

/** *.localhost means this machine, but not to every browser. */
function namesMissing(lane) {
  const { kind, demo } = lane;
  if (!onlyFails(lane)) return null;
  const hosts = [...new Set(kind.urls(demo.view.lanes).map((url) => new URL(url).hostname))];
  return [
    "If the other lanes of the Ingress work, this browser does not know these names. Add this line to /etc/hosts: ",
    el("code", {}, `127.0.0.1 ${hosts.join(" ")}`),
  ];
}

function certificateUnknown(lane) {
  const { kind, demo } = lane;
  if (!onlyFails(lane)) return null;
  const [url] = kind.urls(demo.view.lanes);
  return [
    "The demo's certificate is signed by itself. If this browser has not been told to accept it, ",
    el("a", { href: url, target: "_blank", rel: "noopener" }, "open the address once"),
    ", accept it there, and send again.",
  ];
}

class Demo {
  mark = newMark();
  closes = false;
  lanes = [];
  #number = 0;
  /** Answers by pod since the page was opened. */
  #hits = new Map();
  #colours = new Map();
  #generation = null;
  /** Ends the stream, if it is followed. */
  #stop = null;
  #refreshing = 0;
  #waiting = new Set();

  constructor(view) {
    this.view = view;
    this.tail = new Tail(view.started);
    // Without HTTPS there is no address for lane G.
    const shown = KINDS.filter((kind) => kind.urls(view.lanes).every(Boolean));
    this.lanes = shown.map((kind) => new Lane(this, kind));
    byId("lanes").append(...this.lanes.map((lane) => lane.section));
    setText(byId("mark"), `n=${this.mark}-…`);
    setText(byId("gateway"), view.http);
    this.#controls();
    this.render();
    this.listen();
    document.addEventListener("visibilitychange", () => this.listen());
  }

  nextNumber() {
    return (this.#number += 1);
  }

  /** The pods of these apps that can be chosen. */
  living(...apps) {
    return this.view.pods.filter((pod) => apps.includes(pod.app));
  }

  isLiving(name) {
    return this.view.pods.some((pod) => pod.name === name);
  }

  /** Living pods, and those that went while the page was open. */
  get #pods() {
    const gone = this.view.gone.filter((pod) => this.#colours.has(pod.name));
    return [...this.view.pods, ...gone.map((pod) => ({ ...pod, gone: true }))];
  }

  /** The class of a pod's colour: the same everywhere, as long as the page is open. */
  colour(name) {
    if (!this.#colours.has(name)) {
      const { size } = this.#colours;
      this.#colours.set(name, `pod-${size % COLOURS}${size % (2 * COLOURS) < COLOURS ? "" : " striped"}`);
    }
    return this.#colours.get(name);
  }

  hit(name) {
    this.#hits.set(name, (this.#hits.get(name) ?? 0) + 1);
    this.#renderPods();
    for (const pod of byId("pods").children) {
      const isIt = pod.dataset.pod === name;
      pod.classList.toggle("last", isIt);
      if (isIt) light(pod.firstElementChild);
    }
  }

  laneDone() {
    this.refresh();
    this.compare();
  }

  /** Renders a lane soon, because something came late; many such things at once are one rendering. */
  later(lane) {
    if (this.#waiting.size === 0) {
      setTimeout(() => {
        for (const lane of this.#waiting) lane.render();
        this.#waiting.clear();
      }, 100);
    }
    this.#waiting.add(lane);
  }

  /**
   * Follows the stream while somebody looks, or a lane sends. A browser has six connections for one address, all tabs
   * together, and each stream holds one.
   */
  listen() {
    const wanted = !document.hidden || this.lanes.some((lane) => lane.busy);
    if (wanted) this.#stop ??= this.#follow();
    else {
      this.#stop?.();
      this.#stop = null;
      this.tail.connected = false;
      setText(byId("stream"), "Not listening while this page is hidden.");
    }
  }

  /** Before a lane sends: the state of now, as other pages change it too, and the stream if it comes soon. */
  async ready() {
    if (await this.#ask("/demo/state", {})) return;
    for (let i = 0; i < STREAM_STEPS && !this.tail.connected; i++) await new Promise((done) => setTimeout(done, STREAM_STEP));
  }

  #follow() {
    return follow("", {
      status: (connected) => {
        this.tail.connected = connected;
        const lost = "Live stream lost: connecting again. Client ports are “?” until then.";
        setText(byId("stream"), connected ? "Live" : lost);
        byId("stream").classList.toggle("bad", !connected);
        // It may be another process that answers now.
        if (connected) this.#ask("/demo/state", {});
        else this.render();
      },
      tail: (events) => this.tail.take(events),
      state: (view) => {
        if (view.generation !== this.#generation) this.refresh();
        this.#generation = view.generation;
      },
    });
  }

  /** Asks for the state, soon, and once however often it is called until then. */
  refresh() {
    if (this.#refreshing) return;
    this.#refreshing = setTimeout(async () => {
      this.#refreshing = 0;
      await this.#ask("/demo/state", {});
    }, REFRESH);
  }

  /** Asks for a state and shows it; returns why there is none. */
  async #ask(path, options) {
    let why = "Tidegate does not answer. Is the demo still running?";
    try {
      const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), ...options });
      if (answer.ok) {
        const { started } = this.view;
        this.view = await answer.json();
        if (this.view.started !== started) this.#beginAnew();
        why = null;
      } else why = await answer.text();
    } catch {
      // It does not answer.
    }
    showProblem(why);
    this.render();
    return why;
  }

  /** The process is another one, with other pods of the same names. */
  #beginAnew() {
    this.mark = newMark();
    setText(byId("mark"), `n=${this.mark}-…`);
    this.#hits.clear();
    this.tail.clear(this.view.started);
    for (const lane of this.lanes) lane.clear();
    setText(byId("done"), "The demo was started anew: the counts begin again.");
    this.compare();
  }

  async #act(path, done) {
    const why = await this.#ask(path, { method: "POST" });
    setText(byId("done"), why ? "" : done());
    this.compare();
  }

  #controls() {
    byId("add").addEventListener("click", () => {
      const before = new Set(this.view.pods.map((pod) => pod.name));
      const added = () => this.view.pods.filter((pod) => !before.has(pod.name)).map((pod) => pod.name);
      if (!this.view.canAdd) setText(byId("done"), "Eight kubia pods are the most here. Kill one first.");
      else this.#act("/demo/add", () => `Added: ${added().join(", ")}. New choices may fall on it.`);
    });
    for (const radio of document.querySelectorAll("input[name=affinity]")) {
      radio.addEventListener("change", () =>
        this.#act(`/demo/affinity?service=kubia-nodeport&to=${radio.value}`, () =>
          `sessionAffinity of kubia-nodeport is ${this.view.affinity} now. Open connections stay where they are.`));
    }
    const close = byId("close");
    // Browsers remember what was checked over a reload.
    close.checked = false;
    close.addEventListener("change", () => {
      this.closes = close.checked;
      for (const lane of this.lanes) lane.render();
    });
    byId("clear").addEventListener("click", () => {
      for (const lane of this.lanes) if (!lane.busy) lane.clear();
      setText(byId("done"), "The lanes are empty. The pods' totals and logs are not.");
    });
    byId("compare").addEventListener("click", () => this.compare());
    byId("log-pod").addEventListener("change", () => this.compare());
  }

  render() {
    const { view } = this;
    byId("add").setAttribute("aria-disabled", !view.canAdd);
    for (const radio of document.querySelectorAll("input[name=affinity]")) radio.checked = radio.value === view.affinity;
    this.#renderPods();
    for (const lane of this.lanes) lane.render();
    const option = (pod) => el("option", { value: pod.name }, pod.name);
    sync(byId("log-pod"), this.#pods, (pod) => pod.name, option, () => {});
  }

  #renderPods() {
    sync(byId("pods"), this.#pods, (pod) => pod.name, (pod) => this.#pod(pod), (element, pod) => {
      const hits = this.#hits.get(pod.name) ?? 0;
      const kill = element.lastElementChild;
      element.dataset.hits = hits;
      element.classList.toggle("gone", pod.gone === true);
      setText(element.querySelector(".count"), plural(hits, "hit"));
      setText(element.querySelector(".where"), pod.gone ? "killed" : `${pod.app} · ${pod.address}`);
      // It keeps its place: nothing moves.
      kill.classList.toggle("unseen", pod.gone === true);
    });
  }

  #pod({ name }) {
    const kill = async () => {
      await this.#act(`/demo/kill?pod=${encodeURIComponent(name)}`, () => `${name} was killed.`);
      // Who uses the keyboard would start over from the top otherwise.
      if (!this.isLiving(name)) byId("add").focus({ preventScroll: true });
    };
    return el(
      "li",
      { class: this.colour(name), "data-pod": name },
      el("span", { class: "shape", "aria-hidden": "true" }),
      el("strong", {}, name),
      el("span", { class: "count num" }),
      el("span", { class: "where" }),
      el("button", { type: "button", "aria-label": `Kill ${name}`, click: kill }, "Kill"),
    );
  }

  /** Reads every pod's log, and compares it with what this page counted. */
  async compare() {
    const names = this.#pods.map((pod) => pod.name);
    const logs = await Promise.all(names.map((name) => log(name)));
    const rows = names.map((name, i) => ({ name, hits: this.#hits.get(name) ?? 0, log: logs[i] }));
    const create = ({ name }) =>
      el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "num" }), el("td", { class: "num" }), el("td"));
    sync(document.querySelector("#agree tbody"), rows, (row) => row.name, create, (tr, row) => {
      const logged = row.log?.filter((line) => line.includes(`n=${this.mark}-`)).length;
      setText(tr.children[1], number(row.hits));
      setText(tr.children[2], logged === undefined ? "–" : number(logged));
      setText(tr.children[3], verdict(row, logged));
    });
    const shown = names.indexOf(byId("log-pod").value);
    const pre = byId("log");
    setText(pre, logs[shown]?.join("\n") || "Nothing yet.");
    pre.scrollTop = pre.scrollHeight;
  }
}

/** A pod's log, by lines; null if it is gone. */
async function log(name) {
  try {
    const answer = await fetch(`/demo/logs?pod=${encodeURIComponent(name)}`);
    return answer.ok ? (await answer.text()).split("\n").filter(Boolean) : null;
  } catch {
    return null;
  }
}

/** Pods remember so many lines. */
const LOG_LINES = 1000;

function verdict({ hits, log }, logged) {
  if (logged === undefined) return "There is no log.";
  if (logged === hits) return "Yes.";
  if (log.length >= LOG_LINES && logged < hits) return `The log has its last ${number(LOG_LINES)} lines only.`;
  return logged > hits ? "No: an answer may be under way, or was lost on its way." : "No.";
}

function light(shape) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  shape.animate(
    [{ transform: "scale(1.25)", filter: "brightness(1.6)" }, { transform: "none", filter: "none" }],
    { duration: 500, easing: "ease-out" },
  );
}

function showProblem(text) {
  byId("problem").hidden = !text;
  setText(byId("problem"), text ?? "");
}

try {
  const demo = new Demo(await (await fetch("/demo/state")).json());
  demo.compare();
} catch (error) {
  showProblem("The state of the demo could not be read. Load this page again.");
  throw error;
}

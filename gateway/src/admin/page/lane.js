// One lane: its buttons, its requests, what was seen of them.

import { Recent, el, number, portOf, setAttribute, setText, sync } from "./common.js";

/** Rows that are shown; connections and cookies that are told apart. More is only counted. */
const ROWS = 20;
const CONNECTIONS = 500;
const SESSIONS = 50;

/** Between two requests of "Send 20", in ms: slow enough to watch. */
const PAUSE = 40;

/** A connection that was not used for so long, in ms, may have been closed for that. */
const IDLE = 5000;

/** After this, in ms, there will be no answer. */
const TIMEOUT = 10_000;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** What was seen in a lane since it was cleared. */
function noFacts(lane) {
  return {
    name: lane.demo.view.lanes.cookieName,
    layer: lane.kind.layer,
    sent: 0,
    answered: 0,
    failed: 0,
    /** Failures that the stream has said nothing about (yet). */
    unexplained: 0,
    /** Failures while no pod was left. */
    noPod: 0,
    /** Answers of the gateway itself, and those for want of a pod by the Service's name. */
    refusals: 0,
    withoutPod: new Map(),
    pods: new Map(),
    connections: 0,
    /** Answers whose connection is not known (yet). */
    unknown: 0,
    /** Connections that had carried requests before. */
    older: 0,
    /** An idle connection was not used again. */
    idle: false,
    hosts: new Set(),
    /** Why the Ingress chose what it chose. */
    choices: new Set(),
    /** Connections whose requests hit several pods. */
    mixedConnections: 0,
    /** Of the requests that opened a connection: with these the Service chose. */
    affinities: new Set(),
    closes: new Set(),
    protocols: new Set(),
    /** Connections of the requests that were sent at once last. */
    atOnce: new Set(),
    /** The most pods there were to choose from. */
    choiceMax: 0,
    statuses: new Map(),
    reasons: new Recent(3),
    targets: new Recent(10),
    sessions: new Recent(SESSIONS),
    movedSessions: 0,
    withCookie: 0,
    cookieLost: false,
    gone: [],
    lastPod: null,
  };
}

export class Lane {
  constructor(demo, kind) {
    this.demo = demo;
    this.kind = kind;
    this.next = 0;
    this.busy = false;
    this.cookie = null;
    this.noCookie = false;
    this.high = 0;
    this.#build();
    this.clear();
  }

  clear() {
    this.facts = noFacts(this);
    this.connections = new Recent(CONNECTIONS);
    this.rows = [];
    this.lastAt = Infinity;
    this.render();
  }

  #build() {
    const { id, title, about, buttons } = this.kind;
    const heading = `lane-${id}-title`;
    const button = (text, run) => el("button", { type: "button", click: () => this.#run(run) }, text);
    const actions = {
      one: () => button("Send 1", () => this.#sequence(1)),
      twenty: () => button("Send 20", () => this.#sequence(20)),
      atOnce: () => button("20 at once", () => this.#atOnce(20)),
      forget: () => button("Forget cookie", () => this.#forget()),
    };
    this.buttons = buttons.map((name) => actions[name]());
    this.histogram = el("ul", { class: "histogram" });
    this.body = el("tbody");
    this.sentence = el("p", { class: "sentence", "aria-live": "polite" });
    this.session = el("p", { class: "session", "aria-live": "polite" });
    this.problem = el("p", { class: "problem", hidden: true });
    this.address = el("ul", { class: "addresses" });
    const column = (text, isNumber) => el("th", { scope: "col", class: isNumber && "num" }, text);
    this.unknown = el("span");
    const caption = el("caption", { class: "quiet" }, `Last requests of lane ${id.toUpperCase()}`, this.unknown);
    const heads = [column("No.", true), column("Pod"), column("Client port", true), column("New or kept")];
    const table = el("table", {}, caption, el("thead", {}, el("tr", {}, ...heads)), this.body);
    this.section = el(
      "section",
      { class: "lane", id: `lane-${id}`, "aria-labelledby": heading, "aria-busy": "false" },
      el("h3", { id: heading }, el("span", { class: "letter" }, id.toUpperCase()), title),
      el("p", { class: "about" }, about),
      this.address,
      el("div", { class: "buttons" }, ...this.buttons),
      this.histogram,
      el("div", { class: "said" }, this.sentence, this.kind.report ? this.session : "", this.problem),
      el("div", { class: "rows", tabindex: "0", role: "region", "aria-label": `Last requests of lane ${id.toUpperCase()}` }, table),
    );
  }

  async #run(send) {
    if (this.busy) return;
    this.#setBusy(true);
    await this.demo.ready();
    await send();
    await this.#hearTail();
    this.#setBusy(false);
    this.render();
    this.demo.laneDone();
  }

  /** The stream is at most some 100 ms behind; what it has not told by then, it may still tell later. */
  async #hearTail() {
    const waits = ({ facts, rows }) => facts.unknown || facts.unexplained || rows.some((row) => row.isNew && !row.client);
    for (let i = 0; i < 10 && this.demo.tail.connected && waits(this); i++) await pause(PAUSE);
  }

  #setBusy(busy) {
    this.busy = busy;
    if (busy) this.noCookie = false;
    this.demo.listen();
    if (busy) this.render();
    setAttribute(this.section, "aria-busy", busy);
    for (const button of this.buttons) setAttribute(button, "aria-disabled", busy);
  }

  async #sequence(count) {
    for (let i = 0; i < count; i++) {
      if (i) await pause(PAUSE);
      await this.#ask({});
    }
  }

  /** Without a cookie the request would only make the Ingress set one; that one is forgotten, too. */
  async #forget() {
    this.noCookie = this.cookie?.forgotten === true;
    if (this.noCookie) return;
    await this.#ask({ forget: true });
    if (!this.cookie || this.cookie.value) return;
    await this.#ask({ forget: true });
    this.noCookie = !this.cookie.value;
  }

  async #atOnce(count) {
    this.facts.atOnce = new Set();
    await Promise.all(Array.from({ length: count }, () => this.#ask({ atOnce: true })));
  }

  /** Whether pods close their connection after the answer. */
  get closes() {
    return this.kind.close || this.demo.closes;
  }

  #url(number, forget) {
    const urls = this.kind.urls(this.demo.view.lanes);
    const url = new URL(urls[this.next++ % urls.length]);
    const { cookieName, cookiePath } = this.demo.view.lanes;
    const query = [`n=${this.demo.mark}-${number}`];
    if (this.closes) query.push("close=1");
    if (this.kind.report) query.push("report=1");
    if (forget) query.push(`header=${encodeURIComponent(`Set-Cookie:${cookieName}=; Path=${cookiePath}; Max-Age=0`)}`);
    url.search = query.join("&");
    return url;
  }

  async #ask({ forget, atOnce }) {
    const { facts, demo } = this;
    const no = demo.nextNumber();
    const url = this.#url(no, forget);
    const row = { no, url, forget, atOnce, begun: Date.now(), target: url.hostname + url.pathname };
    row.affinity = this.kind.affinity ?? demo.view.affinity;
    row.choice = demo.living("kubia").length;
    row.idle = row.begun - this.lastAt > IDLE;
    facts.sent += 1;
    facts.closes.add(this.closes);
    try {
      const answer = await fetch(url, {
        cache: "no-store",
        credentials: this.kind.credentials,
        signal: AbortSignal.timeout(TIMEOUT),
      });
      const text = await answer.text();
      this.#answered(facts, row, answer, text);
    } catch {
      this.#failed(facts, row);
    }
    // The demo may have been started anew since: that is another lane's life.
    if (facts !== this.facts) return;
    this.lastAt = Date.now();
    this.rows = [row, ...this.rows].slice(0, ROWS);
    this.render();
  }

  #answered(facts, row, answer, text) {
    row.pod = answer.headers.get("X-Pod");
    if (!row.pod) {
      this.#refused(facts, row, answer.status);
      return;
    }
    facts.answered += 1;
    facts.pods.set(row.pod, (facts.pods.get(row.pod) ?? 0) + 1);
    facts.lastPod = row.pod;
    facts.hosts.add(row.url.hostname);
    facts.targets.set(row.target, (facts.targets.get(row.target) ?? new Set()).add(row.pod));
    facts.unknown += 1;
    if (this.kind.report) this.#readCookie(facts, row, text);
    if (this.kind.layer === "service") this.#overService(facts, row, answer.headers);
    else this.#overIngress(facts, row, answer.headers.get("X-Request-Id"));
    if (facts === this.facts) this.demo.hit(row.pod);
  }

  /** Notes with what the pod was chosen, and what it means that this connection was opened, if anything is known of it. */
  #chosen(facts, row) {
    facts.affinities.add(row.affinity);
    facts.choiceMax = Math.max(facts.choiceMax, row.choice);
    const alone = !row.atOnce && !this.kind.showTarget && !facts.closes.has(true) && !facts.gone.length;
    if (row.isNew && row.idle && facts.connections && alone) facts.idle = true;
  }

  /** A connection of the client's is one to the pod, so the pod tells whether it is new; only the port is the stream's. */
  #overService(facts, row, headers) {
    const key = `${headers.get("X-Peer")}|${row.pod}`;
    row.isNew = headers.get("X-Connection-Reused") !== "true";
    if (row.isNew) this.#chosen(facts, row);
    if (row.isNew || !this.connections.has(key)) {
      facts.connections += 1;
      if (!row.isNew) facts.older += 1;
    }
    this.connections.set(key, true);
    if (row.atOnce) facts.atOnce.add(key);
    facts.unknown -= 1;
    this.demo.tail.expect(key, row.isNew, (event) => {
      row.client = event.client;
      this.#late(facts);
    });
  }

  #overIngress(facts, row, requestId) {
    if (!requestId) return;
    this.demo.tail.expect(requestId, true, (event) => {
      facts.unknown -= 1;
      row.client = event.client;
      row.isNew = event.nth === 1;
      facts.protocols.add(event.protocol);
      facts.choices.add(event.reason);
      // The lane may have been cleared since: then these connections are another lane's life.
      if (facts !== this.facts) return;
      this.#chosen(facts, row);
      const pods = this.connections.get(event.client) ?? new Set();
      if (pods.size === 0) facts.connections += 1;
      if (pods.size === 1 && !pods.has(row.pod)) facts.mixedConnections += 1;
      this.connections.set(event.client, pods.add(row.pod));
      if (row.atOnce) facts.atOnce.add(event.client);
      this.#late(facts);
    });
  }

  /** What the browser keeps is hidden from scripts; the pod tells which cookie came. */
  #readCookie(facts, row, text) {
    const before = this.cookie;
    const header = JSON.parse(text).headers.find(([name]) => name === "cookie")?.[1] ?? "";
    const pair = header.split("; ").find((text) => text.startsWith(`${facts.name}=`));
    this.cookie = { value: pair?.slice(facts.name.length + 1) ?? null, forgotten: Boolean(row.forget && pair) };
    if (!pair) {
      facts.cookieLost ||= before !== null && !before.forgotten && !row.forget;
      return;
    }
    facts.withCookie += 1;
    const pods = facts.sessions.get(pair) ?? new Set();
    if (pods.size === 1 && !pods.has(row.pod)) facts.movedSessions += 1;
    facts.sessions.set(pair, pods.add(row.pod));
  }

  #refused(facts, row, status) {
    facts.refusals += 1;
    facts.lastPod = null;
    row.status = status;
    facts.statuses.set(status, (facts.statuses.get(status) ?? 0) + 1);
  }

  /** The browser tells no more than that there was no answer it may show. The stream may know better. */
  #failed(facts, row) {
    const noPod = this.kind.layer === "service" && !this.demo.living(...this.kind.apps).length;
    facts.failed += 1;
    facts.unexplained += 1;
    if (noPod) facts.noPod += 1;
    facts.lastPod = null;
    row.failed = true;
    this.demo.tail.explain(row.url, row.begun, (event) => {
      facts.unexplained -= 1;
      row.client = event.client;
      row.isNew = event.kind === "refused" || event.nth === 1;
      if (event.why && !noPod) facts.reasons.set(event.why, true);
      if (event.kind === "request" && event.status) {
        facts.failed -= 1;
        row.failed = false;
        this.#refused(facts, row, event.status);
        const service = event.service?.split("/").at(-1).split(":")[0];
        if (event.status === 503 && service && !this.demo.living(service).length) {
          facts.withoutPod.set(service, (facts.withoutPod.get(service) ?? 0) + 1);
        }
      }
      this.#late(facts);
    });
  }

  #late(facts) {
    if (!this.busy && facts === this.facts) this.demo.later(this);
  }

  render() {
    const { facts, section } = this;
    const living = this.demo.living(...this.kind.apps).map((pod) => pod.name);
    facts.gone = [...facts.pods.keys()].filter((pod) => !this.demo.isLiving(pod)).sort();
    const pods = [...new Set([...living, ...[...facts.pods.keys()].sort()])];
    section.dataset.requests = facts.answered;
    section.dataset.connections = facts.connections;
    section.dataset.pods = [...facts.pods.keys()].sort().join(" ");
    this.#renderAddress();
    this.#renderHistogram(pods);
    this.#renderRows();
    // Screen readers are told once that it sends, and once what came of it.
    setText(this.sentence, this.busy ? "Sending…" : this.kind.sentence(facts));
    if (this.busy) return;
    const problem = this.kind.trouble?.(this) ?? null;
    this.problem.hidden = !problem;
    if (problem) this.problem.replaceChildren(...problem);
    if (this.kind.report) this.#renderCookie();
  }

  #renderAddress() {
    const urls = this.kind.urls(this.demo.view.lanes);
    sync(this.address, urls, (url) => url, (url) => el("li", {}, el("code", {}, url)), () => {});
  }

  #renderHistogram(pods) {
    const { facts } = this;
    const none = facts.failed + facts.refusals;
    // What was there once keeps its place: nothing below moves when pods go.
    this.high = Math.max(this.high, pods.length + 1);
    this.histogram.style.setProperty("--high", this.high);
    const most = Math.max(1, none, ...facts.pods.values());
    const create = (pod) => {
      const row = el("li", { "data-pod": pod }, el("span", {}, pod ?? "no pod"), el("span", { class: "bar" }), el("span", { class: "num" }));
      row.className = pod ? this.demo.colour(pod) : "none";
      return row;
    };
    sync(this.histogram, [...pods, null], (pod) => pod ?? "", create, (row, pod) => {
      const hits = pod ? (facts.pods.get(pod) ?? 0) : none;
      if (pod) row.dataset.hits = hits;
      row.classList.toggle("gone", pod !== null && !this.demo.isLiving(pod));
      row.children[1].style.setProperty("--share", hits / most);
      setText(row.children[2], number(hits));
    });
  }

  #renderRows() {
    const create = () => el("tr", {}, el("td", { class: "num" }), el("td"), el("td", { class: "num" }), el("td"));
    const early = this.kind.layer === "service" && !this.busy && this.rows.some((row) => row.isNew === false && !row.client);
    setText(this.unknown, early ? ". ? = opened before this page listened." : "");
    sync(this.body, this.rows, (row) => row.no, create, (tr, row) => {
      const answer = row.pod ?? (row.status ? `${row.status}, no pod` : "failed");
      const path = this.kind.showTarget ? `${row.target} → ` : "";
      setText(tr.children[0], row.no);
      setText(tr.children[1], path + answer + (row.forget ? " (forget)" : ""));
      setText(tr.children[2], row.client ? portOf(row.client) : "?");
      setText(tr.children[3], row.isNew === undefined ? "?" : row.isNew ? "new" : "kept");
      tr.classList.toggle("fresh", row.isNew === true);
    });
  }

  #renderCookie() {
    const { cookie, facts } = this;
    let text = "Cookie that a pod saw last: no pod was asked yet.";
    if (cookie) text = `Cookie that a pod saw last: ${cookie.value ? `${facts.name}=${cookie.value}` : "none"}.`;
    if (this.noCookie) text = "There is no cookie to forget.";
    else if (cookie?.forgotten) text += " Its answer told the browser to forget it.";
    setText(this.session, text);
  }
}

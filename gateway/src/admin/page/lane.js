// One lane: its buttons, its requests, what was seen of them.

import { Recent, el, number, portOf, setAttribute, setText, sync } from "./common.js";

/** Rows that are shown; connections and cookies that are told apart. More is only counted. */
const ROWS = 20;
const CONNECTIONS = 500;
const SESSIONS = 50;

/** Between two requests of "Send 20", in ms: slow enough to watch. */
const PAUSE = 40;

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
    /** Answers of the gateway itself. */
    refusals: 0,
    pods: new Map(),
    connections: 0,
    /** Answers whose connection is not known (yet). */
    unknown: 0,
    /** Connections that had carried requests before. */
    older: 0,
    /** Connections whose requests hit several pods. */
    mixedConnections: 0,
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
    this.#build();
    this.clear();
  }

  clear() {
    this.facts = noFacts(this);
    this.connections = new Recent(CONNECTIONS);
    this.rows = [];
    this.cookie = null;
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
      forget: () => button("Forget cookie", () => this.#ask({ forget: true })),
    };
    this.buttons = buttons.map((name) => actions[name]());
    this.histogram = el("ul", { class: "histogram" });
    this.body = el("tbody");
    this.sentence = el("p", { class: "sentence", "aria-live": "polite" });
    this.session = el("p", { class: "session" });
    this.problem = el("p", { class: "problem", hidden: true });
    this.address = el("ul", { class: "addresses" });
    const column = (text, isNumber) => el("th", { scope: "col", class: isNumber && "num" }, text);
    const caption = el("caption", { class: "quiet" }, `Last requests of lane ${id.toUpperCase()}`);
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
      this.sentence,
      el("div", {}, this.kind.report ? this.session : "", this.problem),
      el("div", { class: "rows", tabindex: "0", role: "region", "aria-label": `Last requests of lane ${id.toUpperCase()}` }, table),
    );
  }

  async #run(send) {
    if (this.busy) return;
    this.#setBusy(true);
    await send();
    await this.#hearTail();
    this.#setBusy(false);
    this.render();
    this.demo.laneDone();
  }

  /** The stream is at most some 100 ms behind; what it has not told by then, it may still tell later. */
  async #hearTail() {
    const { facts, demo } = this;
    for (let i = 0; i < 10 && demo.tail.connected && (facts.unknown || facts.unexplained); i++) await pause(PAUSE);
  }

  #setBusy(busy) {
    this.busy = busy;
    setAttribute(this.section, "aria-busy", busy);
    for (const button of this.buttons) setAttribute(button, "aria-disabled", busy);
  }

  async #sequence(count) {
    for (let i = 0; i < count; i++) {
      if (i) await pause(PAUSE);
      await this.#ask({});
    }
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
    facts.sent += 1;
    facts.closes.add(this.closes);
    facts.affinities.add(this.kind.affinity ?? demo.view.affinity);
    facts.choiceMax = Math.max(facts.choiceMax, demo.living("kubia").length);
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
    facts.targets.set(row.target, (facts.targets.get(row.target) ?? new Set()).add(row.pod));
    facts.unknown += 1;
    if (this.kind.report) this.#readCookie(facts, row, text);
    if (this.kind.layer === "service") this.#overService(facts, row, answer.headers);
    else this.#overIngress(facts, row, answer.headers.get("X-Request-Id"));
    this.demo.hit(row.pod);
  }

  /** A connection of the client's is one to the pod, so the pod tells whether it is new; only the port is the stream's. */
  #overService(facts, row, headers) {
    const key = `${headers.get("X-Peer")}|${row.pod}`;
    row.isNew = headers.get("X-Connection-Reused") !== "true";
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
      row.isNew = this.demo.tail.isNew(event.client);
      facts.protocols.add(event.protocol);
      // The lane may have been cleared since: then these connections are another lane's life.
      if (facts !== this.facts) return;
      const pods = this.connections.get(event.client) ?? new Set();
      if (pods.size === 0) {
        facts.connections += 1;
        if (!row.isNew) facts.older += 1;
      }
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
    this.cookie = { value: pair?.slice(facts.name.length + 1) ?? null, forgotten: row.forget };
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
    row.status = status;
    facts.statuses.set(status, (facts.statuses.get(status) ?? 0) + 1);
  }

  /** The browser tells no more than that there was no answer it may show. The stream may know better. */
  #failed(facts, row) {
    facts.failed += 1;
    facts.unexplained += 1;
    row.failed = true;
    this.demo.tail.explain(row.url, row.begun, (event) => {
      facts.unexplained -= 1;
      row.client = event.client;
      if (event.why) facts.reasons.set(event.why, true);
      if (event.kind === "request" && event.status) {
        facts.failed -= 1;
        row.failed = false;
        this.#refused(facts, row, event.status);
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
    if (this.busy) return;
    setText(this.sentence, this.kind.sentence(facts));
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
    const most = Math.max(1, none, ...facts.pods.values());
    const create = (pod) => {
      const row = el("li", { "data-pod": pod }, el("span", {}, pod ?? "no pod"), el("span", { class: "bar" }), el("span", { class: "num" }));
      row.classList.add(pod ? this.demo.colour(pod) : "none");
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
    if (cookie?.forgotten) text += " Its answer told the browser to forget it.";
    setText(this.session, text);
  }
}

// What the live stream tells about this page's own requests: the port each came from.
//
// A connection through a Service is known by the gateway's end of its connection to the pod (the pod's X-Peer); a request
// through an Ingress by its X-Request-Id. The event may come before the answer or after it, or never (the stream skips
// when there is too much): then nothing is assumed.

import { Recent } from "./common.js";

/** Events and questions that wait for each other; 20 requests take a few dozen. */
const KEPT = 2000;

/** How far the clocks of the browser and the gateway may be apart, and how late an event may come, in ms. */
const SLACK = 50;
const LATE = 2000;

/** Survives a reload of the page, as the browser's connections do. */
const STORED = "tidegate-demo-connections";
const STORED_MAX = 200;

export class Tail {
  connected = false;
  #events = new Recent(KEPT);
  #waiting = new Recent(KEPT);
  #loose = new Recent(KEPT);
  #failed = [];
  #started;

  /** `started` tells the process whose connections they are. */
  constructor(started) {
    this.#started = started;
    try {
      const stored = JSON.parse(sessionStorage.getItem(STORED) ?? "{}");
      const ours = stored.started === started ? stored.connections : [];
      for (const [key, client] of ours ?? []) this.#events.set(key, { client, claimed: true });
    } catch {
      // Storage may be forbidden. Then a reload costs the ports of the connections that are open.
    }
    addEventListener("pagehide", () => this.#store());
  }

  #store() {
    const connections = [...this.#events].filter(([key]) => key.includes("|")).map(([key, { client }]) => [key, client]);
    try {
      sessionStorage.setItem(
        STORED,
        JSON.stringify({ started: this.#started, connections: connections.slice(-STORED_MAX) }),
      );
    } catch {
      // As above.
    }
  }

  /** Another process: what was known of the connections to the last one means nothing. */
  clear(started) {
    this.#started = started;
    for (const known of [this.#events, this.#waiting, this.#loose]) known.clear();
    this.#failed = [];
  }

  /** Calls back with the event of `key`, now or later. Who begins a connection wants an event that nobody had before. */
  expect(key, begins, callback) {
    const event = this.#events.get(key);
    if (event && !(begins && event.claimed)) {
      event.claimed = true;
      callback(event);
      return;
    }
    const waiting = this.#waiting.get(key) ?? [];
    this.#waiting.set(key, [...waiting, callback]);
  }

  /** Calls back with the event that explains a request which failed, if there is one: of its address and its time. */
  explain(url, begun, callback) {
    const failed = { url, begun: begun - SLACK, ended: Date.now() + SLACK, callback };
    if (!this.#settle(failed)) this.#failed.push(failed);
  }

  take(events) {
    for (const event of events) {
      if (event.kind === "connection") this.#arrive(`${event.upstream}|${event.pod ?? ""}`, event);
      if (event.kind === "request" && event.requestId) this.#arrive(event.requestId, event);
      if (event.kind === "refused" || (event.kind === "request" && (event.failure || !event.pod))) this.#loose.set(event.id, event);
    }
    const now = Date.now();
    this.#failed = this.#failed.filter((failed) => !this.#settle(failed) && now - failed.ended < LATE);
  }

  #arrive(key, event) {
    this.#events.set(key, event);
    const waiting = this.#waiting.get(key) ?? [];
    this.#waiting.delete(key);
    if (waiting.length) event.claimed = true;
    for (const callback of waiting) callback(event);
  }

  #settle({ url, begun, ended, callback }) {
    for (const [id, event] of this.#loose) {
      const here =
        event.kind === "refused"
          ? event.frontend === url.host
          : event.host.split(":")[0] === url.hostname && event.path === url.pathname;
      if (!here || event.time < begun || event.time > ended) continue;
      this.#loose.delete(id);
      callback(event);
      return true;
    }
    return false;
  }
}

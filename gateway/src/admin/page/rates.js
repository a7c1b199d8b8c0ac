// Rates and latencies of the last seconds: the difference of two states of the stream.

/** How far back the comparison reaches, in ms. */
const WINDOW = 10_000;

/** Without a new state for so long, in ms, nothing has changed: the stream sends one a second otherwise. */
const QUIET = 1_500;

/** Upper bounds of the latency buckets, in ms: those of `route::stats::LATENCY_BUCKETS`. The last bucket has no bound. */
const BOUNDS = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

export class Rates {
  #states = [];
  #came = 0;

  /** The first state of a window has nothing to be compared with. */
  get known() {
    return this.#states.length > 1;
  }

  clear() {
    this.#states = [];
  }

  /** Takes in a state; returns whether the process is another one than before. */
  push(view) {
    const last = this.#states.at(-1)?.view;
    const isNew = last && (view.uptimeSeconds < last.uptimeSeconds || view.totals.requests < last.totals.requests);
    if (isNew) this.clear();
    this.#states.push({ view, index: index(view) });
    this.#came = Date.now();
    while (this.#states.length > 2 && view.time - this.#states[1].view.time >= WINDOW) this.#states.shift();
    return Boolean(isNew);
  }

  /** Called once a second: no news is that nothing happened, and rates fall. Returns the state then. */
  tick() {
    const last = this.#states.at(-1);
    const since = Date.now() - this.#came;
    if (!last || since < QUIET) return null;
    this.push({ ...last.view, time: last.view.time + since });
    return this.#states.at(-1).view;
  }

  /** How often a second; `count` takes a counter from an indexed state, or undefined. */
  of(count) {
    const seconds = (this.#states.at(-1).view.time - this.#states[0].view.time) / 1000;
    const grown = this.grown(count);
    return seconds > 0 && grown !== null ? grown / seconds : null;
  }

  /** By how much a counter has grown; null if it is not known. */
  grown(count) {
    if (!this.known) return null;
    const now = count(this.#states.at(-1).index);
    // What was not there at first has counted from zero.
    const before = count(this.#states[0].index) ?? 0;
    return now === undefined ? null : Math.max(0, now - before);
  }

  /** The bucket bounds under which half and 99 % of a rule's answers stayed; null without answers. */
  latencies(key) {
    const grown = Array.from({ length: BOUNDS.length + 1 }, (_, i) => this.grown((s) => s.rules.get(key)?.latency?.buckets[i]) ?? 0);
    const all = grown.reduce((sum, count) => sum + count, 0);
    if (all === 0) return null;
    const quantile = (share) => {
      let seen = 0;
      const bucket = grown.findIndex((count) => (seen += count) >= share * all);
      return bucket in BOUNDS ? `≤ ${number(BOUNDS[bucket])}` : `> ${number(BOUNDS.at(-1))}`;
    };
    return { p50: quantile(0.5), p99: quantile(0.99) };
  }
}

const number = (ms) => (ms < 1000 ? `${ms} ms` : `${ms / 1000} s`);

export const portKey = (service, port) => `${service.namespace}/${service.name}:${port.name}/${port.port}/${port.protocol}`;
export const ruleKey = (ingress, rule) => `${ingress}|${rule.host}|${rule.pathType}|${rule.path}|${rule.backend}`;
export const ingressName = (ingress) => `${ingress.namespace}/${ingress.name}`;

/** Every rule of a state, with the name of its Ingress; that of the command line has none. */
export function rules(view) {
  const written = view.ingresses.flatMap((ingress) => ingress.rules.map((rule) => ({ rule, ingress: ingressName(ingress) })));
  return [...written, ...(view.otherRules ?? []).map((rule) => ({ rule, ingress: "" }))];
}

/** The counters of a state by name. */
function index(view) {
  const ports = new Map();
  const picks = new Map();
  for (const service of view.services) {
    for (const port of service.ports) {
      const key = portKey(service, port);
      ports.set(key, port.stats);
      for (const endpoint of port.endpoints) picks.set(`${key}|${endpoint.address}`, endpoint.picks);
    }
  }
  return { totals: view.totals, ports, picks, rules: new Map(rules(view).map(({ rule, ingress }) => [ruleKey(ingress, rule), rule])) };
}

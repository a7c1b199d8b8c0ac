// The dashboard: what /live says, as tables. It asks nothing but /explain, and changes nothing.

import { Recent, byId, bytes, clock, clockSeconds, duration, el, follow, milliseconds, number, plural, rate, setText, sync } from "./common.js";
import { Rates, ingressName, portKey, ruleKey, rules } from "./rates.js";

/** Rows of the tail; endpoints shown of one port. More is only counted. */
const TAIL = 100;
const ENDPOINTS = 20;

/** Certificates that expire sooner are marked, in days: renewal is due at a third of ninety days. */
const SOON = 21;

/** After the last key in the filter box, in ms. */
const TYPING = 300;

const rates = new Rates();
let stop = () => {};
let live = false;
let paused = false;
let view = null;
/** Tail events by id, newest last. */
const events = new Recent(TAIL);
let missed = 0;
/** Since when events are told without a gap, and whether one has come since. */
let since = "this page was opened";
let came = false;

const shown = (value, format = number) => (value === null || value === undefined ? "–" : format(value));
const td = (isNumber) => el("td", { class: isNumber && "num" });
const row = (...numbers) => () => el("tr", {}, ...numbers.map(td));
const cells = (tr, ...texts) => texts.forEach((text, i) => text !== null && setText(tr.children[i], text));

function connect() {
  disconnect();
  stop = follow(byId("filter-text").value.trim(), {
    status: (connected) => {
      setText(byId("stream"), connected ? "Live" : "Live stream lost, connecting again. What is shown is old.");
      byId("stream").classList.toggle("bad", !connected);
      live = connected;
      // What happened in between would look like one busy second.
      if (!connected) rates.clear();
    },
    state: (next) => {
      rates.push(next);
      view = next;
      if (!paused) render();
    },
    tail: (news) => take(news),
  });
}

function disconnect() {
  stop();
  stop = () => {};
  live = false;
  // Their ends may come while nobody listens.
  for (const event of events.values()) event.lost = true;
  rates.clear();
}

function render() {
  if (!view) return;
  const { draining, version, generation, uptimeSeconds } = view;
  byId("draining").hidden = !draining;
  byId("demo").hidden = !view.demo;
  setText(byId("process"), `· version ${version} · up ${duration(uptimeSeconds)} · configuration ${generation}`);
  renderTotals();
  renderFindings();
  renderServices();
  renderRoutes();
  renderCertificates();
}

function renderTotals() {
  const { totals } = view;
  const per = (name, format = rate) => shown(rates.of((state) => state.totals[name]), format);
  const answered = (state, from) =>
    Object.entries(state.totals.answers).reduce((sum, [status, count]) => sum + (Number(status) >= from ? count : 0), 0);
  const all = rates.grown((state) => answered(state, 0));
  const errors = rates.grown((state) => answered(state, 500));
  const tiles = [
    ["Requests/s", per("requests"), `${number(totals.requests)} in all`],
    ["Errors (5xx)", all ? percent(errors / all) : "–", `${number(answered({ totals }, 500))} in all`],
    ["Requests under way", number(totals.requestsUnderWay), plural(totals.httpConnections, "HTTP connection")],
    ["Connections/s", per("l4Accepted"), `${number(totals.l4Accepted)} in all, through Services`],
    ["Connections open", number(totals.l4Open), "through Services"],
    ["From clients", `${per("bytesIn", bytes)}/s`, `${bytes(totals.bytesIn)} in all`],
    ["To clients", `${per("bytesOut", bytes)}/s`, `${bytes(totals.bytesOut)} in all`],
  ];
  const create = ([name]) => el("div", {}, el("dt", {}, name), el("dd", { class: "figure" }), el("dd", { class: "quiet" }));
  sync(byId("totals"), tiles, ([name]) => name, create, (tile, [, figure, note]) => {
    setText(tile.children[1], figure);
    setText(tile.children[2], note);
  });
  setText(byId("skipped"), totals.tailSkipped ? `${number(totals.tailSkipped)} were skipped: there were too many to show.` : "");
}

const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

/** After a title: how many there are, and whether all are shown. */
function title(section, count, total, noun = "") {
  const text = count < total ? `(${number(count)} of ${number(total)}${noun} shown; filter for others)` : `(${number(total)}${noun})`;
  setText(byId(`${section}-title`).querySelector(".of"), text);
}

/** One line across the table if there is nothing else. */
function orNothing(body, items, text) {
  const columns = body.parentElement.querySelectorAll("thead th").length;
  body.nothing ??= el("tr", {}, el("td", { colspan: columns, class: "quiet" }));
  setText(body.nothing.firstElementChild, text);
  if (items.length) body.nothing.remove();
  else body.append(body.nothing);
}

function renderFindings() {
  const failed = (view.listenersFailed ?? []).map((listener) => ({
    severity: "error",
    reason: "ListenerFailed",
    file: "",
    message: `${listener.address} (${listener.kind}${listener.service ? ` of ${listener.service}` : ""}): ${listener.message ?? "not open"}`,
    fix: listener.fix ?? "",
  }));
  const findings = [...failed, ...view.findings];
  title("findings", findings.length, view.findingsTotal + failed.length);
  const where = ({ object, field, file, line }) =>
    [object && `${object.kind} ${object.namespace ? `${object.namespace}/` : ""}${object.name}`, field, file && `${file}${line ? `:${line}` : ""}`]
      .filter(Boolean)
      .join(" · ");
  const create = ({ severity, reason, message, fix, ...rest }) =>
    el(
      "li",
      { class: severity },
      el("strong", {}, `${severity}: ${reason}`),
      el("span", { class: "quiet" }, where(rest)),
      el("span", {}, message),
      fix ? el("span", {}, el("em", {}, "Fix: "), fix) : "",
    );
  const list = byId("findings");
  sync(list, findings.length ? findings : [null], JSON.stringify, (finding) => (finding ? create(finding) : el("li", { class: "quiet" }, "None: nothing is wrong, or the filter leaves nothing of it.")), () => {});
}

function renderServices() {
  const { services } = view;
  title("services", services.length, view.servicesTotal);
  const ports = services.flatMap((service) =>
    service.ports.length ? service.ports.map((port) => ({ service, port })) : [{ service, port: null }]);
  const create = () => {
    const tr = row(false, false, false, true, true, true, false)();
    tr.lastElementChild.append(el("ul", { class: "endpoints" }));
    return tr;
  };
  const key = ({ service, port }) => (port ? portKey(service, port) : `${service.namespace}/${service.name}`);
  const body = byId("services");
  orNothing(body, ports, "No Services: none is configured, or the filter leaves none.");
  sync(body, ports, key, create, (tr, item) => {
    const { service, port } = item;
    const id = key(item);
    const addresses = [...service.clusterIPs, ...service.external, service.pending && "external IP pending"].filter(Boolean);
    const stats = port?.stats;
    cells(
      tr,
      ingressName(service),
      port ? `${port.name ? `${port.name} ` : ""}${port.port}${port.nodePort ? `:${port.nodePort}` : ""}/${port.protocol}` : "–",
      `${service.type} ${addresses.join(", ")}${service.affinityTimeoutSeconds ? " · ClientIP affinity" : ""}`,
      shown(stats && rates.of((state) => state.ports.get(id)?.accepted), rate),
      shown(stats?.open),
      shown(stats && stats.refused + stats.connectFailed + stats.turnedAway),
    );
    renderEndpoints(tr.lastElementChild.firstElementChild, id, service, port);
  });
}

function renderEndpoints(list, id, service, port) {
  const endpoints = port?.endpoints ?? [];
  const items = endpoints.slice(0, ENDPOINTS);
  const more = endpoints.length - items.length + (port?.endpointsLeftOut ?? 0);
  const note = more > 0 ? `and ${number(more)} more` : noneUsable(service, port, endpoints);
  if (note) items.push({ address: "", note });
  const create = () => el("li", { class: "endpoint" }, el("span"), el("span"), el("span", { class: "num" }), el("span", { class: "num" }));
  sync(list, items, (endpoint) => endpoint.address, create, (li, endpoint) => {
    const [name, state, inFlight, picks] = li.children;
    if (endpoint.note) {
      setText(name, endpoint.note);
      return;
    }
    const [word, tone] = endpointState(endpoint);
    setText(name, endpoint.pod ? `${endpoint.pod} ${endpoint.address}` : endpoint.address);
    setText(state, word);
    if (state.className !== tone) state.className = tone;
    setText(inFlight, shown(endpoint.inFlight));
    setText(picks, shown(endpoint.picks === undefined ? null : rates.of((state) => state.picks.get(`${id}|${endpoint.address}`)), rate));
  });
}

/** Why nobody is served, if so. */
function noneUsable(service, port, endpoints) {
  if (service.type === "ExternalName") return "an alias in DNS";
  // Endpoints that end but still serve are used when there are no others.
  if (endpoints.some(({ ready, serving, terminating }) => (ready && !terminating) || (serving && terminating))) return "";
  const none = endpoints.length ? "no usable endpoint" : "no endpoints";
  return port?.stats ? `${none}: connections are refused` : none;
}

/** What keeps an endpoint from its share, the gravest first. */
function endpointState(endpoint) {
  if (endpoint.terminating) return [endpoint.serving ? "terminating, still serving" : "terminating", "warn"];
  if (!endpoint.ready) return ["not ready", "bad"];
  if (endpoint.ejectedSeconds !== undefined) return [`ejected, ${endpoint.ejectedSeconds} s left`, "bad"];
  if (endpoint.healthCheck === "failing") return ["health check fails", "bad"];
  if (endpoint.slowStartPercent !== undefined) return [`slow start, ${endpoint.slowStartPercent} %`, "warn"];
  if (endpoint.healthCheck === "unknown") return ["not checked yet", "warn"];
  return [endpoint.healthCheck === "passing" ? "ready, check passes" : "ready", "good"];
}

function renderRoutes() {
  const all = rules(view);
  title("routes", view.ingresses.length, view.ingressesTotal, view.ingressesTotal === 1 ? " Ingress" : " Ingresses");
  const body = byId("routes");
  const left = view.ingresses.reduce((sum, ingress) => sum + (ingress.rulesLeftOut ?? 0), 0);
  setText(byId("routes-left"), left ? `${number(left)} more rules of these Ingresses are not shown.` : "");
  orNothing(body, all, "No routes: no Ingress is served, or the filter leaves none.");
  const create = row(false, false, false, true, true, true, true, true);
  sync(body, all, ({ rule, ingress }) => ruleKey(ingress, rule), create, (tr, { rule, ingress }) => {
    const key = ruleKey(ingress, rule);
    const sum = (requests, from) =>
      Object.entries(requests ?? {}).reduce((sum, [status, count]) => sum + (Number(status) >= from ? count : 0), 0);
    const count = (from) => (state) => state.rules.has(key) ? sum(state.rules.get(key).requests, from) : undefined;
    const requests = rates.grown(count(0));
    const errors = rates.grown(count(500));
    const took = rates.known && rates.latencies(key);
    const path = rule.path === undefined ? " (default backend)" : rule.path;
    cells(
      tr,
      `${rule.host}${path}${rule.pathType === "Exact" ? " (exact)" : ""}`,
      ingress || "command line",
      `${rule.backend}${rule.cookie?.issued ? ` · cookie ${rule.cookie.name}` : ""}${rule.problem ? ` · 503: ${rule.problem}` : ""}`,
      shown(rates.known ? rates.of(count(0)) : null, rate),
      requests ? percent(errors / requests) : "–",
      took ? took.p50 : "–",
      took ? took.p99 : "–",
      number(sum(rule.requests, 0)),
    );
    tr.children[2].classList.toggle("bad", Boolean(rule.problem));
    tr.children[4].classList.toggle("bad", errors > 0);
  });
}

function renderCertificates() {
  const certificates = [...view.certificates].sort((a, b) => a.notAfter - b.notAfter);
  title("certificates", certificates.length, view.certificatesTotal ?? certificates.length);
  const body = byId("certificates");
  orNothing(body, certificates, "No certificates: no Ingress that is shown has TLS.");
  sync(body, certificates, (one) => `${one.secret} ${one.notAfter}`, row(false, false, false, false), (tr, one) => {
    const [word, tone] = expiry(one);
    const more = one.hostsLeftOut ? ` and ${number(one.hostsLeftOut)} more` : "";
    cells(tr, one.secret, (one.hosts.join(", ") || "–") + more, one.subject, word);
    tr.lastElementChild.className = tone;
  });
}

function expiry({ notBefore, notAfter }) {
  const day = new Date(notAfter * 1000).toISOString().slice(0, 10);
  const left = notAfter - view.time / 1000;
  if (left <= 0) return [`expired on ${day}`, "bad"];
  if (notBefore > view.time / 1000) return [`not valid before ${new Date(notBefore * 1000).toISOString().slice(0, 10)}`, "bad"];
  const days = Math.floor(left / 86400);
  return [`${day}, in ${plural(days, "day")}`, days < SOON ? "warn" : ""];
}

// The live tail.

/** The text that is looked for; case does not matter. */
const wanted = () => byId("filter-text").value.trim().toLowerCase();

function take(news) {
  for (const event of news) {
    if (event.kind === "connectionEnd") {
      const begun = events.get(event.of);
      // Setting it anew would make it the newest.
      if (begun) begun.ended = event;
    } else if (JSON.stringify(Object.values(event)).toLowerCase().includes(wanted())) {
      events.set(event.id, event);
      came = true;
      if (paused) missed += 1;
    }
  }
  if (paused) setText(byId("paused"), `Paused. ${plural(missed, "newer event")}.`);
  else scheduleTail();
}

let scheduled = false;

/** Several batches in one frame are one rendering. */
function scheduleTail() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    if (!paused) renderTail();
  });
}

const BACK = "you came back to this page";

/** What is missing between the rows, if the page was hidden. */
function gap(nothing) {
  return since === BACK ? `${nothing} What went on while this page was hidden is missing.`.trimStart() : "";
}

function renderTail() {
  const body = byId("tail");
  const rows = [...events.values()].reverse();
  const nothing = `Nothing has come since ${since}.`;
  orNothing(body, rows, nothing);
  setText(byId("gap"), gap(rows.length && !came ? nothing : ""));
  const create = (event) => {
    const tr = row(false, false, false, false, false, true, false, false)();
    tr.lastElementChild.append(el("button", { type: "button", class: "small", "data-event": event.id, "aria-label": `Why? ${asked(event)[0]}, ${clock(event.time)}` }, "Why"));
    cells(tr, clock(event.time), event.client, ...asked(event), null, null, event.why ?? event.reason ?? "");
    return tr;
  };
  sync(body, rows, (event) => event.id, create, (tr, event) => {
    const [outcome, tone] = outcomeOf(event);
    setText(tr.children[4], outcome);
    if (tr.children[4].className !== tone) tr.children[4].className = tone;
    const took = event.kind === "request" ? event.ms : event.ended?.ms;
    setText(tr.children[5], shown(took, milliseconds));
  });
}

/** What was asked for, and the pod it went to. */
function asked(event) {
  const pod = event.pod ?? event.endpoint ?? "–";
  if (event.kind === "request") {
    return [`${event.method} ${event.scheme}://${event.host}${event.path} ${event.protocol}`, event.tries > 1 ? `${pod} (try ${event.tries})` : pod];
  }
  return [`${event.protocol} ${event.frontend}, ${event.frontendKind ?? "Service"} ${event.service}`, pod];
}

function outcomeOf(event) {
  if (event.kind === "refused") return ["refused", "bad"];
  if (event.kind === "request") {
    const tone = event.status >= 500 ? "bad" : event.status >= 400 ? "warn" : "good";
    return [event.failure ? `${event.status} ${event.failure.replaceAll("_", " ")}` : String(event.status), tone];
  }
  const { ended } = event;
  if (ended) return [`closed, ${bytes(ended.bytesIn)} in, ${bytes(ended.bytesOut)} out`, ""];
  return event.lost ? ["was open when last seen", ""] : ["open", "good"];
}

async function trace(id) {
  const body = byId("trace-body");
  body.replaceChildren(el("p", {}, "Asking…"));
  byId("trace").showModal();
  try {
    const answer = await fetch(`/explain?event=${encodeURIComponent(id)}`);
    body.replaceChildren(...(answer.ok ? explained(await answer.json(), events.get(id)) : [el("p", {}, await answer.text())]));
  } catch {
    body.replaceChildren(el("p", {}, "Tidegate does not answer."));
  }
}

/** What happened: the steps below it are what would happen now. */
function happened({ time, pod }, seen) {
  const at = `at ${clockSeconds(time)}. By the configuration of now:`;
  const where = pod ?? seen?.endpoint;
  if (where) return `It went to ${where} ${at}`;
  if (seen?.kind === "request") return `It was answered ${seen.status} ${at}`;
  return `It ${seen ? "was turned away" : "went to no pod"} ${at}`;
}

function explained({ question, steps, outcome, event }, seen) {
  const items = steps.map(({ title, detail }) => el("li", {}, el("strong", {}, `${title}: `), detail));
  const words = {
    endpoints: () => `One of these endpoints: ${outcome.rule}`,
    refused: () => `Refused: ${outcome.reason}`,
    status: () => `Answered ${outcome.code}: ${outcome.reason}`,
    dns: () => `Beyond Tidegate: ${outcome.reason ?? outcome.answer ?? "clients learn the address from DNS"}`,
  };
  const candidates = (outcome.candidates ?? []).slice(0, TAIL);
  const rest = (outcome.candidates?.length ?? 0) - candidates.length;
  const lines = candidates.map(({ address, pod, share, first }) =>
    el("tr", {}, el("td", { class: "num" }, percent(share)), el("td", {}, pod ?? "–"), el("td", {}, address), el("td", {}, first ? "tried first" : "")));
  const head = ["Share", "Pod", "Address", ""].map((text, i) => el("th", { scope: "col", class: i === 0 && "num" }, text));
  const table = el("table", {}, el("caption", {}, "Endpoints that could be chosen"), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...lines));
  return [
    el("p", {}, el("code", {}, question)),
    event ? el("p", { class: "happened" }, happened(event, seen)) : "",
    el("ol", {}, ...items),
    el("p", {}, el("strong", {}, words[outcome.kind]?.() ?? outcome.kind)),
    candidates.length ? el("div", { class: "scroll" }, table) : "",
    rest > 0 ? el("p", { class: "quiet" }, `and ${number(rest)} more`) : "",
  ];
}

/** Rows are for the mouse too; the button in them is for everybody. */
byId("tail").addEventListener("click", (event) => {
  const selects = getSelection().toString() && !event.target.closest("button");
  if (selects) return;
  const id = event.target.closest("tr")?.querySelector("button")?.dataset.event;
  if (id) trace(id);
});

byId("pause").addEventListener("click", () => {
  paused = !paused;
  missed = 0;
  byId("pause").setAttribute("aria-pressed", paused);
  setText(byId("pause"), paused ? "Go on" : "Pause");
  setText(byId("paused"), paused ? "Paused." : "");
  if (!paused) {
    render();
    renderTail();
  }
});

let typing = 0;
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("filter-text").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    events.clear();
    since = "the filter changed";
    renderTail();
    connect();
  }, TYPING);
});

setInterval(() => {
  const quiet = live && rates.tick();
  if (quiet && !paused) {
    view = quiet;
    render();
  }
}, 1000);

// Nobody looks: the gateway need not tell.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    disconnect();
    return;
  }
  since = BACK;
  came = false;
  connect();
  if (!paused) renderTail();
});

renderTail();
connect();

// The sentence of each lane: made of what was seen in it since it was cleared, and of nothing else.
//
// A lane's `facts` (see lane.js) are counts. What they cannot show is not said; where the live stream left a gap, the
// sentence says "at least".

import { list, number, plural } from "./common.js";

const single = (set, value) => set.size === 1 && set.has(value);
const names = (facts) => list([...facts.pods.keys()].sort());
const times = (count) => (count === 1 ? "once" : count === 2 ? "twice" : `${number(count)} times`);
const join = (...parts) => parts.filter(Boolean).join(" ");

/** Lanes in front of a Service. */
export function service(facts) {
  if (!facts.sent) return "Nothing sent yet.";
  return join(counts(facts), facts.answered && serviceCause(facts), goneFromService(facts), failures(facts, "Service"));
}

/** Lanes in front of an Ingress without affinity. */
export function ingress(facts) {
  if (!facts.sent) return "Nothing sent yet.";
  return join(counts(facts), facts.answered && ingressCause(facts), gone(facts), failures(facts, "Ingress"));
}

/** The Ingress with cookie affinity. */
export function cookie(facts) {
  if (!facts.sent) return "Nothing sent yet.";
  return join(counts(facts), facts.answered && cookieCause(facts), gone(facts), failures(facts, "Ingress"));
}

/** Two hosts and two paths. */
export function hosts(facts) {
  if (!facts.sent) return "Nothing sent yet.";
  const routes = [...facts.targets].map(([target, pods]) => `${target} went to ${list([...pods].sort())}`);
  const why =
    routes.length > 1
      ? "The Ingress read host and path of each request, and so one address serves several Services. " +
        "A Service reads neither: each would need an address or a port of its own."
      : routes.length && "The Ingress read host and path of the request to find the Service.";
  const routed = routes.length && `${plural(facts.answered, "request")}, all to one address: ${routes.join("; ")}.`;
  return join(routed, why, failures(facts, "Ingress"));
}

/** Requests at once over TLS. */
export function http2(facts) {
  if (!facts.sent) return "Nothing sent yet.";
  let why = "";
  if (single(facts.protocols, "HTTP/2.0")) {
    why =
      facts.connections === 1
        ? facts.atOnce.size && "This browser spoke HTTP/2: all of them share one connection, even at once."
        : "This browser spoke HTTP/2, which carries many requests at once on each connection.";
  } else if (single(facts.protocols, "HTTP/1.1")) {
    why = "This browser spoke HTTP/1.1 here, which carries one request at a time on each connection.";
  }
  return join(counts(facts), why, facts.answered && ingressCause(facts), gone(facts), failures(facts, "Ingress"));
}

/** "20 requests over 1 connection hit 1 pod: kubia-b." */
function counts(facts) {
  if (!facts.answered) return facts.sent === facts.failed + facts.refusals ? "No pod has answered." : "";
  const over = facts.connections
    ? `over ${facts.unknown ? "at least " : ""}${plural(facts.connections, "connection")} `
    : "";
  const missing = facts.unknown
    ? ` The live stream did not tell the client port of ${number(facts.unknown)} of them.`
    : "";
  return `${plural(facts.answered, "request")} ${over}hit ${plural(facts.pods.size, "pod")}: ${names(facts)}.${missing}`;
}

function serviceCause(facts) {
  const { answered, connections } = facts;
  if (answered === 1) return join("A Service chooses the pod when a connection is opened.", kept(facts), "Send more.");
  return join(connectionsOfService(facts), connections > 1 && choices(facts), kept(facts), sixAtMost(facts));
}

/** Why there were as many connections as there were. */
function connectionsOfService(facts) {
  const { answered, connections } = facts;
  if (connections === 1) {
    const affinity = single(facts.affinities, "None") ? " sessionAffinity is None and has no part in it." : "";
    return `The browser kept its connection open. A Service chooses when a connection is opened: it chose once.${affinity}`;
  }
  if (connections === answered) {
    const closed = single(facts.closes, true) ? ", because the pod closed each after its answer" : "";
    return `Each request had a connection of its own${closed}. So the Service chose ${times(connections)}.`;
  }
  const toggled = facts.closes.size > 1 ? " (Connection: close was on for some of the requests only.)" : "";
  return `The Service chose ${times(connections)}: once for each connection, not for each request.${toggled}`;
}

/** Why its choices fell on as many pods as they did. */
function choices(facts) {
  const several = facts.pods.size > 1;
  if (facts.affinities.size > 1) {
    return "sessionAffinity was changed in between: ClientIP keeps a client with one pod, None does not.";
  }
  if (single(facts.affinities, "None")) {
    if (several) return "sessionAffinity is None, so each choice may be another pod.";
    if (facts.choiceMax === 1) return "There was only one pod to choose.";
    return "sessionAffinity is None: that it was the same pod each time is chance. Send more.";
  }
  if (!several && facts.older) {
    return "sessionAffinity is ClientIP: whoever connects anew from the same IP address comes to the same pod.";
  }
  return several
    ? "sessionAffinity is ClientIP: the Service chooses the pod again that it remembers for this IP address, while that pod is there."
    : "It was the same pod each time because sessionAffinity is ClientIP, and all came from one IP address.";
}

function kept(facts) {
  const { older, connections } = facts;
  if (!older) return "";
  const which = connections === 1 ? "The connection was" : `${number(older)} of the connections ${older > 1 ? "were" : "was"}`;
  return `${which} open before this lane began to count.`;
}

/** Browsers open more connections for requests at once. */
function sixAtMost(facts) {
  const { size } = facts.atOnce;
  if (size < 2 || facts.protocols.has("HTTP/2.0") || (facts.layer === "service" && facts.closes.has(true))) return "";
  return `For requests at once the browser used ${number(size)} connections: with HTTP/1.1, up to six to a host at a time.`;
}

function ingressCause(facts) {
  const gateway =
    facts.closes.has(true) && facts.connections < facts.answered && !facts.unknown
      ? "With Connection: close the pods ended their connections with the gateway. The browser's stayed open."
      : "";
  let why = "The Ingress chose a pod for each request.";
  if (facts.answered === 1) why = "An Ingress reads the request and chooses a pod for it. Send more.";
  else if (facts.mixedConnections) {
    why = "The Ingress chose a pod for each request, so even requests on the same connection hit different pods.";
  } else if (facts.pods.size === 1 && facts.choiceMax === 1) why = "There was only one pod to choose.";
  else if (facts.pods.size === 1) why += " That it was the same one each time is chance. Send more.";
  return join(why, sixAtMost(facts), gateway);
}

function cookieCause(facts) {
  const { withCookie, answered, sessions, movedSessions, name } = facts;
  const without = answered - withCookie;
  if (!withCookie) {
    return facts.cookieLost
      ? `None of them brought the cookie ${name}: this browser does not keep it, so the Ingress cannot know it again.`
      : `No cookie ${name} came with it, so the Ingress was free to choose. Send another: does it bring one?`;
  }
  const brought = `${number(withCookie)} of ${number(answered)} brought the cookie ${name}`;
  const one = sessions.size === 1;
  const stayed = one ? ", always the same one, and these hit one pod" : ". Each cookie kept its pod";
  const moved = facts.gone.length ? ". When the pod of a cookie was gone, another was chosen" : ". When the pods changed, a cookie came to another one";
  const free = without ? `Without it (${number(without)}), the Ingress was free to choose.` : "";
  const over = facts.connections > 1 && !movedSessions ? "The cookie decides, not the connection." : "";
  const told = movedSessions ? moved : stayed;
  return join(`${brought}${told}: the Ingress reads it in each request.`, over, free);
}

function gone(facts) {
  return facts.gone.length ? `${list(facts.gone)} ${facts.gone.length > 1 ? "are" : "is"} gone and not chosen any more.` : "";
}

function goneFromService(facts) {
  if (!facts.gone.length || !facts.closes.has(false)) return gone(facts);
  const next = facts.gone.includes(facts.lastPod) ? "The next request needs another one." : "The browser had to use another one.";
  return `${list(facts.gone)} ${facts.gone.length > 1 ? "are" : "is"} gone. A connection cannot move to another pod: it ended. ${next}`;
}

function failures(facts, what) {
  const { failed, refusals } = facts;
  const answers = [...facts.statuses].map(([status, count]) => `${plural(count, "request")} got ${status} from the gateway itself`);
  const reasons = [...facts.reasons.keys()].map((why) => `${why[0].toUpperCase()}${why.slice(1)}${why.endsWith(".") ? "" : "."}`);
  const compare =
    what === "Ingress" && refusals ? "An Ingress can still answer without a pod. A Service can only end the connection." : "";
  const nobody = what === "Service" && failed && !facts.choiceMax ? "There was no pod to choose, and then a Service refuses connections." : "";
  return join(
    failed && `${plural(failed, "request")} failed: ${what === "Ingress" ? "no answer came that this page may read" : "no answer came"}.`,
    answers.length && `${list(answers)}.`,
    ...reasons,
    nobody,
    compare,
  );
}

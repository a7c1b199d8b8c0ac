// The sentence of each lane: made of what was seen in it since it was cleared, and of nothing else.
//
// A lane's `facts` (see lane.js) are counts. What they cannot show is not said; where the live stream left a gap, the
// sentence says "at least".

import { list, number, plural } from "./common.js";

const single = (set, value) => set.size === 1 && set.has(value);
const sorted = (set) => list([...set].sort());
const join = (...parts) => parts.filter(Boolean).join(" ");
const areGone = ({ gone }) => `${list(gone)} ${gone.length > 1 ? "are" : "is"} gone`;

/** What all lanes say: how much, why, who is gone, what failed. */
function said(facts, cause, rest = gone) {
  if (!facts.sent) return "Nothing sent yet.";
  return join(facts.answered && join(counts(facts), cause(facts)), rest(facts), failures(facts));
}

/** Lanes in front of a Service. */
export const service = (facts) => said(facts, serviceCause, goneFromService);

/** Lanes in front of an Ingress without affinity. */
export const ingress = (facts) => said(facts, (facts) => join(ingressCause(facts), idle(facts)));

/** The Ingress with cookie affinity. */
export const cookie = (facts) => said(facts, (facts) => join(cookieCause(facts), idle(facts)));

/** Two hosts and two paths. */
export function hosts(facts) {
  if (!facts.sent) return "Nothing sent yet.";
  const { answered, connections, targets } = facts;
  const routes = [...targets].map(([target, pods]) => `${target} went to ${sorted(pods)}`);
  const address = answered === 1 ? "1 request" : `${number(answered)} requests, all to one address`;
  const read = routes.length && `The Ingress read host and path of each to find its Service${routes.length > 1 ? "; a Service reads neither" : ""}.`;
  const each = connections > 1 && connections === facts.hosts.size && "The browser used one connection for each host name.";
  return join(routes.length && `${address}: ${routes.join("; ")}.`, read, each, gone(facts), failures(facts));
}

/** Requests at once over TLS. */
export const http2 = (facts) =>
  said(facts, (facts) => {
    let why = "";
    if (single(facts.protocols, "HTTP/2.0")) {
      why =
        facts.connections === 1
          ? facts.atOnce.size && "This browser spoke HTTP/2: all of them share one connection, even at once."
          : "This browser spoke HTTP/2, which carries many requests at once on each connection.";
    } else if (single(facts.protocols, "HTTP/1.1")) {
      why = "This browser spoke HTTP/1.1 here, which carries one request at a time on each connection.";
    }
    return join(why, ingressCause(facts));
  });

/** "20 requests, 1 connection, 1 pod: kubia-b." */
function counts(facts) {
  const { answered, connections, unknown, pods } = facts;
  const over = connections ? `${unknown ? "at least " : ""}${plural(connections, "connection")}, ` : "";
  const missing = unknown ? ` The live stream did not tell the client port of ${number(unknown)} of them.` : "";
  return `${plural(answered, "request")}, ${over}${plural(pods.size, "pod")}: ${sorted(pods.keys())}.${missing}`;
}

function serviceCause(facts) {
  if (facts.answered === 1) return join("A Service chooses the pod when a connection is opened.", kept(facts), "Send more.");
  return join(connectionsOfService(facts), choices(facts), kept(facts), sixAtMost(facts), idle(facts));
}

/** Why there were as many connections as there were. */
function connectionsOfService(facts) {
  const { answered, connections, closes } = facts;
  if (connections === 1) {
    const affinity = single(facts.affinities, "None") && !facts.older ? "; sessionAffinity (None) had no part" : "";
    return `The browser kept its connection, and a Service chooses once per connection${affinity}.`;
  }
  if (connections === answered) {
    return `${single(closes, true) ? "Each answer ended its connection, and each" : "Each"} connection was a new choice.`;
  }
  const toggled = closes.size > 1 ? " (Connection: close was on for some of the requests only.)" : "";
  return `The Service chose once for each connection, not for each request.${toggled}`;
}

/** Why its choices fell on as many pods as they did: those that were made while this lane counted. */
function choices(facts) {
  const several = facts.pods.size > 1;
  const made = facts.connections - facts.older;
  if (!made || facts.connections < 2) return "";
  if (facts.affinities.size > 1) return "sessionAffinity was changed in between: ClientIP keeps a client with one pod, None does not.";
  if (facts.choiceMax === 1) return "There was only one pod to choose.";
  if (single(facts.affinities, "None")) {
    if (several) return "";
    return made > 1 && !facts.older
      ? "sessionAffinity was None: that it was the same pod each time is chance. Send more."
      : "sessionAffinity was None, so a new connection may get another pod. Send more.";
  }
  return several
    ? "sessionAffinity was ClientIP: a new connection gets the pod that the Service remembers for its IP address, while that pod is there."
    : "sessionAffinity was ClientIP: connections from one IP address get the same pod.";
}

function kept({ older, connections }) {
  if (!older) return "";
  const which = connections === 1 ? "It" : older === connections ? "They" : number(older);
  const were = connections === 1 || (older === 1 && older < connections) ? "was" : "were";
  return `${which} ${were} opened before this lane began to count; a change of sessionAffinity concerns new connections only.`;
}

const idle = (facts) => facts.idle && "A connection that is not used for a while is closed; the next request opens a new one.";

/** Browsers open more connections for requests at once. */
function sixAtMost(facts) {
  const { size } = facts.atOnce;
  if (size < 2 || facts.protocols.has("HTTP/2.0") || (facts.layer === "service" && facts.closes.has(true))) return "";
  return `At once, the browser used ${number(size)} connections: with HTTP/1.1, up to six to a host.`;
}

function ingressCause(facts) {
  const { answered, connections, pods } = facts;
  if (answered === 1) return "An Ingress reads the request and chooses a pod for it. Send more.";
  const gateway =
    facts.closes.has(true) && connections < answered && !facts.unknown
      ? "With Connection: close the pods ended their connections with the gateway. The browser's stayed open."
      : "";
  let why = "The Ingress chose for each request.";
  if (pods.size === 1 && facts.choiceMax === 1) why = "There was only one pod to choose.";
  else if (pods.size === 1) {
    why += single(facts.choices, "RoundRobin") ? " Pods take turns, and other requests took the turns in between. Send more." : " Send more.";
  } else if (facts.mixedConnections && connections > 1) why = "The Ingress chose for each request, whatever its connection.";
  return join(why, sixAtMost(facts), gateway);
}

function cookieCause(facts) {
  const { withCookie, answered, sessions, movedSessions, name } = facts;
  if (!withCookie) {
    return facts.cookieLost
      ? "None of them brought the cookie: it was forgotten in between, or this browser keeps none."
      : `No cookie ${name} came with it, so the Ingress was free to choose. Send another: does it bring one?`;
  }
  const brought = `${number(withCookie)} of ${number(answered)} brought ${sessions.size === 1 ? "the" : "a"} cookie`;
  const [first] = sessions.values();
  const moved = facts.gone.length ? "when the pod of a cookie was gone, another was chosen" : "when the pods changed, a cookie came to another one";
  const stayed = sessions.size > 1 ? "each cookie kept its pod" : `${withCookie > 1 ? "all of these" : "this one"} hit ${sorted(first)}`;
  const free = withCookie < answered ? "Without it, the Ingress was free to choose." : "";
  const over = facts.connections > 1 && !movedSessions ? "The cookie decides, not the connection." : "";
  return join(`${brought}, and ${movedSessions ? moved : stayed}.`, over, free);
}

const gone = (facts) => facts.gone.length > 0 && `${areGone(facts)} and not chosen any more.`;

function goneFromService(facts) {
  if (!facts.gone.length || !facts.closes.has(false)) return gone(facts);
  // Without a last pod the next request was sent already, and failed.
  const used = facts.lastPod && "The browser had to use another one.";
  const next = facts.gone.includes(facts.lastPod) ? "The next request needs another one." : used;
  return join(`${areGone(facts)}, and the connections to ${facts.gone.length > 1 ? "them" : "it"}, too.`, next);
}

function failures(facts) {
  const { failed, noPod, withoutPod } = facts;
  const isService = facts.layer === "service";
  const others = failed - noPod;
  const refused = noPod > 0 && `${plural(noPod, "request")} ${noPod > 1 ? "were" : "was"} refused: no pod was left, and then a Service refuses connections.`;
  const unanswered = others > 0 && `${plural(others, "request")} failed: no answer came${isService ? "" : " that this page may read"}.`;
  const lacking = [...withoutPod].map(([name, count]) => `${plural(count, "request")} for ${name} got 503: Service ${name} had no pod.`);
  const explained = [...withoutPod.values()].reduce((sum, count) => sum + count, 0);
  const answers = [...facts.statuses]
    .map(([status, count]) => [status, status === 503 ? count - explained : count])
    .filter(([, count]) => count > 0)
    .map(([status, count]) => `${plural(count, "request")} got ${status} from the gateway itself`);
  const compare = withoutPod.size > 0 && "With no pod, an Ingress answers 503; a Service refuses the connection.";
  const reasons = [...facts.reasons.keys()].map((why) => `${why[0].toUpperCase()}${why.slice(1)}${why.endsWith(".") ? "" : "."}`);
  return join(refused, unanswered, ...lacking, compare, answers.length > 0 && `${list(answers)}.`, ...reasons);
}

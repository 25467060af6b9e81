// An R2 bucket over HTTP, for the R2 backend of brainy-storage. README.md, beside this file, has the routes.
//
// Every write of an object is conditional; R2 checks the condition and writes in one step. A read comes from the bucket
// itself, unless the request says how old an answer it takes: only then may it come from this data centre's cache.

const OBJECTS = "/v1/objects";
const BULK_DELETE = "/v1/objects:delete";
/** Most objects of a listing or a bulk deletion: R2's own limit. */
const PAGE = 1000;
/** A shorter token would be no secret. */
const LEAST_TOKEN = 16;
/** The request's word on how old an answer it takes: `max-age=SECONDS`. */
const CACHED = "x-brainy-cached";
/** In a kept answer: when its reading began, in milliseconds. */
const READ_AT = "x-brainy-read-at";

export default {
  async fetch(request, env) {
    try {
      return (await refusal(request, env)) ?? (await serve(request, env.BUCKET));
    } catch (error) {
      // A body left unread costs the connection, and the next request on it its outcome.
      await request.body?.pipeTo(new WritableStream()).catch(() => {});
      return failed(error);
    }
  },
};

/** Why this request is not served at all, if so. */
async function refusal(request, env) {
  if (typeof env.TOKEN !== "string" || env.TOKEN.length < LEAST_TOKEN) {
    return problem(501, "TokenNotSet", `the Worker's secret TOKEN is not set, or has fewer than ${LEAST_TOKEN} characters`);
  }
  if (!env.BUCKET) return problem(501, "BucketNotBound", "the Worker has no R2 bucket bound as BUCKET");
  if (!(await sameText(request.headers.get("authorization") ?? "", `Bearer ${env.TOKEN}`))) {
    return problem(401, "InvalidToken", "the token is not the one of the Worker's secret TOKEN");
  }
  return null;
}

/** Compares in a time that says nothing of how much is right: hashes of one length, in constant time. */
async function sameText(given, wanted) {
  const digest = (text) => crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return crypto.subtle.timingSafeEqual(await digest(given), await digest(wanted));
}

async function serve(request, bucket) {
  const url = new URL(request.url);
  const route = (methods) => methods[request.method] ?? (() => problem(405, "MethodNotAllowed", request.method));
  if (url.pathname === OBJECTS) return route({ GET: () => list(bucket, url.searchParams) })();
  if (url.pathname === BULK_DELETE) return route({ POST: () => deleteMany(bucket, request, url.origin) })();
  const name = url.pathname.startsWith(`${OBJECTS}/`) ? decoded(url.pathname.slice(OBJECTS.length + 1)) : null;
  if (!name) return problem(400, "InvalidRequest", `${url.pathname} is neither ${OBJECTS} nor ${OBJECTS}/NAME, with NAME percent-encoded`);
  const key = cacheKey(url.origin, name);
  return route({
    GET: () => get(bucket, name, key, request.headers),
    HEAD: () => head(bucket, name),
    PUT: () => put(bucket, name, key, request),
    DELETE: () => remove(bucket, name, key, request.headers),
  })();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

async function get(bucket, name, key, headers) {
  const wish = headers.get(CACHED);
  if (wish !== null) return getWithCache(bucket, name, key, wish);
  const object = await bucket.get(name);
  return object === null ? notFound() : found(object.body, object.httpEtag);
}

async function getWithCache(bucket, name, key, wish) {
  const [, seconds] = /^max-age=(\d{1,6})$/.exec(wish) ?? [];
  if (seconds === undefined) return problem(400, "InvalidRequest", `${CACHED} must be max-age=SECONDS, 999999 at most`);
  const oldest = Number(seconds);
  const kept = await fromCache(key, oldest);
  if (kept) return kept;
  // Before the bucket is asked: what comes is never younger than it will be said to be.
  const readAt = Date.now();
  const object = await bucket.get(name);
  if (object === null) return notFound();
  const body = await object.arrayBuffer();
  if (oldest > 0) await keep(key, body, object.httpEtag, readAt, oldest);
  return found(body, object.httpEtag, 0);
}

/** What this data centre has kept, unless it is older than `oldest` seconds. */
async function fromCache(key, oldest) {
  if (oldest === 0) return null;
  const kept = await caches.default.match(key);
  if (!kept) return null;
  // Rounded up, and never 0: that stands for what was read for this very answer.
  const age = Math.max(1, Math.ceil((Date.now() - Number(kept.headers.get(READ_AT))) / 1000));
  return age <= oldest ? found(kept.body, kept.headers.get("etag"), age) : null;
}

/** Best effort: the answer is right without it. */
async function keep(key, body, etag, readAt, seconds) {
  const headers = { etag, [READ_AT]: String(readAt), "cache-control": `max-age=${seconds}` };
  await caches.default.put(key, new Response(body, { headers })).catch(() => {});
}

/** Best effort, and of this data centre only: what others have kept is bounded by its age. */
async function purge(key) {
  await caches.default.delete(key).catch(() => {});
}

function cacheKey(origin, name) {
  return `${origin}${OBJECTS}/${encodeURIComponent(name)}`;
}

async function head(bucket, name) {
  const object = await bucket.head(name);
  return object === null ? notFound() : found(null, object.httpEtag);
}

async function put(bucket, name, key, request) {
  const onlyIf = condition(request.headers);
  if (onlyIf === null) {
    return problem(428, "ConditionRequired", 'a write needs one condition: If-None-Match: *, or If-Match: "etag"');
  }
  if (!request.headers.has("content-length")) return problem(411, "MissingContentLength", "a write needs its Content-Length");
  const object = await bucket.put(name, request.body ?? "", { onlyIf });
  if (object === null) return problem(412, "PreconditionFailed", "the object does not stand as the condition says");
  await purge(key);
  return new Response(null, { headers: { etag: object.httpEtag } });
}

/** The one condition of a write, as R2 takes it; `null` where it is none, more than one, or matches several versions. */
function condition(headers) {
  const match = headers.get("if-match");
  const noneMatch = headers.get("if-none-match");
  if (match === null && noneMatch === "*") return new Headers({ "if-none-match": "*" });
  // A proxy that compresses an answer makes its ETag weak; it still names that version.
  const etag = noneMatch === null && match !== null ? /^(?:W\/)?("[^"]+")$/.exec(match) : null;
  return etag && new Headers({ "if-match": etag[1] });
}

async function remove(bucket, name, key, headers) {
  if (headers.has("if-match") || headers.has("if-none-match")) {
    return problem(501, "NotImplemented", "an R2 binding can't delete under a condition");
  }
  await bucket.delete(name);
  await purge(key);
  return new Response(null, { status: 204 });
}

async function deleteMany(bucket, request, origin) {
  const names = await request.json().then((body) => body?.names, () => null);
  if (!Array.isArray(names) || names.length < 1 || names.length > PAGE || !names.every((name) => typeof name === "string")) {
    return problem(400, "InvalidRequest", `the body must be {"names": [...]} with 1 to ${PAGE} names`);
  }
  await bucket.delete(names);
  await Promise.all(names.map((name) => purge(cacheKey(origin, name))));
  return new Response(null, { status: 204 });
}

async function list(bucket, params) {
  const limit = Number(params.get("limit") ?? PAGE);
  if (!Number.isInteger(limit) || limit < 1 || limit > PAGE) return problem(400, "InvalidRequest", `limit must be 1 to ${PAGE}`);
  const prefix = params.get("prefix") ?? undefined;
  const startAfter = params.get("after") ?? undefined;
  let page = await bucket.list({ prefix, limit, startAfter });
  // R2 may end a page early: an empty one would leave the caller without a name to go on after.
  while (page.truncated && page.objects.length === 0) page = await bucket.list({ prefix, limit, cursor: page.cursor });
  const objects = page.objects.map(({ key, size }) => ({ name: key, bytes: size }));
  return Response.json({ objects, more: page.truncated }, { headers: { "cache-control": "no-store" } });
}

/** `no-transform`: a proxy that compressed it would change its ETag. */
function found(body, etag, age) {
  const headers = { etag, "content-type": "application/octet-stream", "cache-control": "no-store, no-transform" };
  if (age !== undefined) headers.age = String(age);
  return new Response(body, { headers });
}

function notFound() {
  return problem(404, "NoSuchKey", "there is no such object");
}

/** R2 ends its messages with a number. Only what is known to be said before anything is written may be a 4xx. */
function failed(error) {
  const message = error instanceof Error ? error.message : String(error);
  switch (/\((\d+)\)$/.exec(message)?.[1]) {
    case "10058":
      return problem(429, "TooManyRequests", message);
    case "10020":
      return problem(400, "InvalidObjectName", message);
    default:
      return problem(500, "InternalError", message);
  }
}

function problem(status, code, message) {
  return Response.json({ code, message }, { status, headers: { "cache-control": "no-store" } });
}

// Runs a Worker on workerd, with an R2 bucket and a cache of its own, until its input ends:
//   BRAINY_MINIFLARE=FOLDER node serve.mjs SCRIPT WRANGLER_TOML [TOKEN]
// It prints the Worker's address; below that, at /cdn-cgi/local/r2/s3, is the bucket's S3 API, with the keys named here.
// What wrangler.toml says of the binding and the date is what the Worker runs with.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const [script, wrangler, token] = process.argv.slice(2);
const { Miniflare } = createRequire(`${process.env.BRAINY_MINIFLARE}/`)("miniflare");

const s3Credentials = { accessKeyId: "test-key", secretAccessKey: "test-secret" };

const settings = await readFile(wrangler, "utf8");
const setting = (name) => {
  const found = new RegExp(`^${name} = "([^"]+)"$`, "m").exec(settings);
  if (!found) throw new Error(`${wrangler} does not say ${name}`);
  return found[1];
};

const miniflare = new Miniflare({
  modules: true,
  script: await readFile(script, "utf8"),
  compatibilityDate: setting("compatibility_date"),
  r2Buckets: { [setting("binding")]: { id: setting("bucket_name"), s3Credentials } },
  bindings: token === undefined ? {} : { TOKEN: token },
});
console.log((await miniflare.ready).origin);
process.stdin.on("end", async () => {
  await miniflare.dispose();
  process.exit();
});
process.stdin.resume();

// Takes the pictures of the console in docs/images: a gateway in front of sample workers in several
// pools, with clients, a worker that has died, and a file whose reload was rejected.
//
// usage: node scripts/screenshots.mjs SMG OUT [SECONDS]

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const [smg, out, seconds = "200"] = process.argv.slice(2);
const require = createRequire(resolve("build/console/node_modules/"));
const { chromium } = require("playwright-core");

const LARGEST = 200 * 1024;
const folder = mkdtempSync(join(tmpdir(), "smg-console-"));
const children = [];

const start = (args, ready) =>
  new Promise((found, failed) => {
    const child = spawn(smg, args, { stdio: ["ignore", "pipe", "pipe"], env: { PATH: process.env.PATH } });
    children.push(child);
    let text = "";
    const read = (chunk) => {
      text += chunk;
      const match = text.match(ready);
      if (match) found({ child, said: match[1] });
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("exit", (code) => failed(new Error(`${args.join(" ")} ended with ${code}:\n${text}`)));
  });

const worker = (...args) => start(["sample-worker", "--port", "0", ...args], /listening on (http:\S+)/);

const engine = ["--ttft", "60ms", "--itl", "8ms", "--prefill-rate", "9000", "--max-running", "12"];
const llama = [...engine, "--model", "llama-3.3-70b", "--runtime", "sglang", "--cache-tokens", "9000"];
const qwen = [...engine, "--model", "qwen3-235b", "--runtime", "vllm", "--cache-tokens", "30000"];

const config = (pools) => `version = 1

[[listeners]]
name = "main"
address = "127.0.0.1:0"
serve = ["inference", "admin", "probes"]

[[listeners]]
name = "console"
address = "127.0.0.1:0"
serve = ["console", "metrics"]

[[pools]]
name = "chat"
runtime = "sglang"
health.interval = "1s"
workers = ${JSON.stringify(pools.chat)}

[[pools]]
name = "canary"
runtime = "sglang"
workers = ${JSON.stringify(pools.canary)}

[[pools]]
name = "reasoning"
runtime = "vllm"
workers = ${JSON.stringify(pools.reasoning)}

[[pools]]
name = "embeddings"
runtime = "vllm"
workers = ${JSON.stringify(pools.embeddings)}

[[models]]
name = "llama-3.3-70b"
aliases = ["chat"]
policy = "cache_aware"
split = [{ pool = "chat", weight = 9 }, { pool = "canary", weight = 1 }]

[[models]]
name = "qwen3-235b"
aliases = ["reasoner"]
pool = "reasoning"
policy = "least_load"
fallback = ["llama-3.3-70b"]

[[models]]
name = "bge-m3"
pool = "embeddings"
`;

const POOLS = ["You are a helpful assistant of a bank.", "You are a patient teacher.", "You write release notes.", "You answer in one sentence."];
let on = true;

/** A client that asks one thing after the other. */
async function client(base, n) {
  for (let turn = 0; on; turn += 1) {
    const kind = (n + turn) % 10;
    const system = POOLS[(n + turn * 3) % POOLS.length].repeat(12 + (n % 5) * 9);
    const chat = { role: "user", content: `Question ${turn % 7} of ${n}: why?` };
    const model = kind < 6 ? "llama-3.3-70b" : "reasoner";
    const asked =
      kind === 9
        ? ["/v1/embeddings", { model: turn % 37 === 5 ? "bge-m4" : "bge-m3", input: system }]
        : ["/v1/chat/completions", { model, stream: true, stream_options: { include_usage: true }, max_tokens: 24 + ((n * 7 + turn * 13) % 60), messages: [{ role: "system", content: system }, chat] }];
    const leaving = new AbortController();
    const leaves = (n * 31 + turn) % 41 === 0 ? setTimeout(() => leaving.abort(), 150) : null;
    try {
      const answer = await fetch(base + asked[0], {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(asked[1]),
        signal: leaving.signal,
      });
      await answer.text();
    } catch {
      // It has gone away, or the gateway has.
    }
    clearTimeout(leaves);
    const wave = 1 + Math.sin(Date.now() / 9000);
    await sleep(120 + ((n * 37 + turn * 11) % 240) + 260 * wave);
  }
}

try {
  const chat = await Promise.all([1, 2, 3, 4].map(() => worker(...llama)));
  const canary = [await worker(...llama, "--fail-rate", "0.05", "--fail-status", "400")];
  const reasoning = await Promise.all([1, 2].map(() => worker(...qwen)));
  const embeddings = [await worker("--model", "bge-m3", "--runtime", "vllm", "--ttft", "12ms")];
  const urls = (workers) => workers.map((worker) => worker.said);
  const pools = { chat: urls(chat), canary: urls(canary), reasoning: urls(reasoning), embeddings: urls(embeddings) };
  const file = join(folder, "smg.toml");
  writeFileSync(file, config(pools));
  const gateway = await start(["--config", file], /([\s\S]*)ready generation=/);
  const at = (name) => "http://" + gateway.said.match(new RegExp(`listener="?${name}"? address="?([0-9.:]+)`))[1];
  const clients = Array.from({ length: 26 }, (_, n) => client(at("main"), n));

  await sleep(Number(seconds) * 900);
  chat[2].child.removeAllListeners("exit");
  chat[2].child.kill("SIGKILL");
  await sleep(Number(seconds) * 100 - 6000);
  writeFileSync(file, config(pools).replace('policy = "least_load"', 'policy = "lest_load"'));
  await sleep(6000);

  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  for (const [name, colorScheme, width, height, whole] of [
    ["console-light", "light", 1280, 1100, false],
    ["console-dark", "dark", 1280, 1100, false],
  ]) {
    const page = await browser.newPage({ colorScheme, viewport: { width, height }, reducedMotion: "reduce" });
    page.on("console", (message) => console.error(`console: ${message.text()}`));
    await page.goto(at("console") + "/console");
    await page.waitForTimeout(2500);
    const path = join(out, `${name}.png`);
    await page.screenshot({ path, fullPage: whole });
    const { size } = statSync(path);
    console.log(`${path}: ${size} bytes`);
    if (size > LARGEST) throw new Error(`${path} is larger than ${LARGEST} bytes`);
    await page.close();
  }
  on = false;
  await Promise.race([Promise.all(clients), sleep(3000)]);
  await browser.close();
} finally {
  for (const child of children) {
    child.removeAllListeners("exit");
    child.kill("SIGKILL");
  }
  rmSync(folder, { recursive: true, force: true });
}
process.exit(0);

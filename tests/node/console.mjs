// Looks at the console of a running gateway in a real browser and fails with what is not as it should be.
//
// usage: node console.mjs NODE_MODULES CHROMIUM CONSOLE_URL MAIN_URL

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [modules, executablePath, base, main] = process.argv.slice(2);
const { chromium } = createRequire(modules + "/")("playwright-core");

const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});

const chat = () =>
  fetch(main + "/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "sample", messages: [{ role: "user", content: "hello" }] }),
  }).then((answer) => answer.text());

/** A page of the console whose every complaint is kept. */
const open = async (options = {}) => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const complaints = [];
  const asked = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => asked.push(request.url()));
  await page.goto(base + "/");
  return { context, page, complaints, asked };
};

const background = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
const brightness = (colour) => colour.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3;

try {
  {
    const { context, page, complaints, asked } = await open();
    assert.equal(page.url(), base + "/console");
    await page.waitForFunction(() => document.title.includes("1 of 3 workers down"), null, { timeout: 30000 });
    assert.match(await page.textContent("h1"), /1 of 3 workers down/);
    assert.equal(await page.locator("table.workers tbody tr").count(), 3);
    assert.match(await page.textContent("table.workers tbody tr:first-child"), /down/);
    const fonts = await page.evaluate(() => getComputedStyle(document.body).fontVariantNumeric);
    assert.equal(fonts, "tabular-nums", "the style applies");

    // A figure changes while the page stays: what was folded, written and focused does, too.
    await page.evaluate(() => { window.same = document.querySelector("h1"); });
    await page.click("summary");
    await page.waitForFunction(() => !document.querySelector("details.pool").open);
    await page.focus("#pause");
    const ended = () => page.textContent("table.spans tbody tr:last-child td");
    const before = await ended();
    for (let n = 0; n < 4; n += 1) await chat();
    await page.waitForFunction(
      (old) => document.querySelector("table.spans tbody tr:last-child td").textContent !== old,
      before,
      { timeout: 15000 },
    );
    assert.ok(await page.evaluate(() => window.same === document.querySelector("h1")));
    assert.ok(await page.evaluate(() => document.activeElement.id === "pause"));
    assert.ok(await page.evaluate(() => !document.querySelector("details.pool").open));

    // The filter leaves what fits, also when the page is brought up to date.
    await page.fill("#filter input", "127.0.0.1:1 down");
    const shown = () => page.locator("table.workers tbody tr:not([hidden])").count();
    assert.equal(await shown(), 1);
    const clock = await page.textContent(".pulse time");
    await page.waitForFunction((old) => document.querySelector(".pulse time").textContent !== old, clock);
    assert.equal(await shown(), 1);
    await page.fill("#filter input", "nothing like it");
    assert.ok(await page.isVisible("#nobody"));
    await page.fill("#filter input", "");

    // Paused means paused.
    await page.click("#pause");
    assert.equal(await page.textContent("#said"), "paused");
    await page.click("#pause");

    // A gateway that is gone is told of, and so is its return.
    await page.route("**/console/live", (route) => route.abort());
    await page.waitForSelector("#lost:not([hidden])", { timeout: 15000 });
    assert.match(await page.textContent("#lost"), /No answer since \d\d:\d\d:\d\d UTC/);
    await page.unroute("**/console/live");
    await page.waitForSelector("#lost[hidden]", { timeout: 15000, state: "attached" });

    const real = complaints.filter((text) => !text.includes("net::ERR_FAILED"));
    assert.deepEqual(real, [], "complaints of the browser");
    assert.ok(asked.every((url) => url.startsWith(base + "/") || url.startsWith("data:")), asked.join("\n"));
    const violation = await page.evaluate(
      () => new Promise((found) => {
        document.addEventListener("securitypolicyviolation", (event) => found(event.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "window.broken = true";
        document.body.append(script);
        setTimeout(() => found("none"), 2000);
      }),
    );
    assert.match(violation, /script-src/, "a script that is not the page's own is refused");
    assert.equal(await page.evaluate(() => window.broken), undefined);

    // Who is shown the page no more does not go on asking.
    let refusals = 0;
    await page.route("**/console/live", (route) => {
      refusals += 1;
      return route.fulfill({ status: 401, body: "" });
    });
    await page.waitForSelector("#lost:not([hidden])", { timeout: 15000 });
    assert.match(await page.textContent("#lost"), /reload it/);
    await page.waitForTimeout(3000);
    assert.equal(refusals, 1);
    await context.close();
  }
  {
    // The key may stand in the address.
    const { context, page, complaints } = await open();
    await page.goto(base.replace("//", "//anybody:key@") + "/console");
    const clock = await page.textContent(".pulse time");
    await page.waitForFunction((old) => document.querySelector(".pulse time").textContent !== old, clock);
    assert.deepEqual(complaints, []);
    await context.close();
  }
  {
    const { context, page, complaints } = await open({ javaScriptEnabled: false });
    assert.match(await page.textContent("h1"), /1 of 3 workers down/);
    assert.equal(await page.locator("table.workers tbody tr").count(), 3);
    assert.ok(await page.isHidden("#pause"));
    assert.ok(await page.isHidden("#filter"));
    assert.deepEqual(complaints, []);
    await context.close();
  }
  {
    const light = await open({ colorScheme: "light" });
    const dark = await open({ colorScheme: "dark" });
    assert.ok(brightness(await background(light.page)) > 200);
    assert.ok(brightness(await background(dark.page)) < 60);
    await light.context.close();
    await dark.context.close();
  }
  for (const width of [360, 768, 1280, 2200]) {
    const { context, page } = await open({ viewport: { width, height: 800 } });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= width, `at ${width} the page is ${wide} wide`);
    await context.close();
  }
} finally {
  await browser.close();
}
process.exit(0);

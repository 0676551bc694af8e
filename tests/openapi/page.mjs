// Opens /docs/ in a real browser that can only reach the gateway, tries a call, and looks at a problem's page; run by
// tests/openapi/check.py. The screenshot is for people.
import { chromium } from "playwright-core";

const [address, token, picture] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 1600 } });
  const faults = [];
  page.on("console", (line) => ["error", "warning"].includes(line.type()) && faults.push(line.text()));
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`${address}/`) && !url.startsWith("data:")) faults.push(`asks ${url}`);
  });
  const expect = (truth, what) => {
    if (!truth) throw new Error(`${what}; the console says ${JSON.stringify(faults)}`);
  };

  await page.goto(`${address}/docs`);
  await page.waitForSelector(".opblock");
  expect((await page.title()) === "Postern: the API", "the title is another");
  const document = await (await page.request.get(`${address}/openapi.json`)).json();
  const calls = Object.values(document.paths).flatMap((methods) => Object.keys(methods));
  expect((await page.locator(".opblock").count()) === calls.length, "not every call is shown");
  await page.screenshot({ path: picture });

  await page.locator("button.authorize").first().click();
  await page.locator(".auth-container input").fill(token);
  await page.locator(".auth-btn-wrapper button.authorize").click();
  await page.locator(".auth-btn-wrapper button.btn-done").click();

  const block = page.locator("#operations-Changes-submitChange");
  await block.locator(".opblock-summary-control").click();
  await block.locator("textarea.body-param__text").fill(
    JSON.stringify({ configuration: "Kiosk ESP", add: [{ group: "Sales Laptops" }], ticket: "RITM0020003" }),
  );
  // The forms are filled with the document's examples.
  await block.locator("tr[data-param-name='If-Match'] input").fill("");
  await block.locator("tr[data-param-name='Prefer'] input").fill("wait=20");
  await block.locator("button.execute").click();
  await block.locator(".live-responses-table .response-col_status").first().waitFor();
  const status = (await block.locator("table.live-responses-table tbody .response-col_status").innerText()).trim();
  const answer = await block.locator("table.live-responses-table .microlight").first().innerText();
  expect(status.startsWith("200") && answer.includes('"succeeded"'), `the call ends in ${status}: ${answer}`);
  await block.locator("table.live-responses-table").scrollIntoViewIfNeeded();
  await page.screenshot({ path: picture.replace(".png", "-tried.png") });

  const link = block.locator("a[href='/problems/unknown-target']").first();
  const meaning = await page.request.get(address + (await link.getAttribute("href")));
  expect((await meaning.text()).startsWith("unknown-target (HTTP 422)"), "the problem has no page");
  expect(faults.length === 0, "the browser finds faults");
} finally {
  await browser.close();
}

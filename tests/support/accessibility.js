// What a check of accessibility looks for first, of the page that it is run in; returns what is wrong.
const wrong = [];
const named = (e) => e.ariaLabel || e.innerText?.trim() || e.title || e.getAttribute("aria-labelledby");
for (const e of document.querySelectorAll("a[href], button, summary"))
  if (!e.closest("[hidden]") && !named(e) && !e.querySelector("text, title")) wrong.push("no name: " + e.outerHTML);
for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
  if (!e.labels?.length && !e.ariaLabel) wrong.push("no label: " + e.outerHTML);
for (const e of document.querySelectorAll("svg, [role=region], progress, meter"))
  if (!e.querySelector(":scope > title") && !e.ariaLabel) wrong.push("not said what it is: " + e.outerHTML.slice(0, 99));
const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
if (new Set(ids).size !== ids.length) wrong.push("an id twice: " + ids);
if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
if (!document.documentElement.lang || !document.title || !document.querySelector("main")) wrong.push("no frame");
const light = (c) => {
  const [r, g, b] = c.match(/[\d.]+/g).map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const back = (e) => {
  for (; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if (!/rgba\(.*, 0\)|transparent|color\(/.test(color)) return color;
  }
  return "rgb(255, 255, 255)";
};
for (const e of document.querySelectorAll("main *, header *")) {
  if (e.closest("svg, option, [hidden], .hidden") || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
  const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((x, y) => y - x);
  if ((a + .05) / (b + .05) < 4.5) wrong.push("too little contrast: " + e.outerHTML.slice(0, 120));
}
if (document.documentElement.scrollWidth > innerWidth + 1) wrong.push("wider than the window");
return wrong;

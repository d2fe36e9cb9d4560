"use strict";
// Draws the charts of a page, and makes its tables sortable and searchable. All that it shows comes
// from the page itself, as JSON, and goes into the page as text.
const page = JSON.parse(document.getElementById("data").textContent);
const PAGE_SIZE = 20;

// {name: [value of each row]} -> [{name: value}]
function rowsOf(name) {
  const columns = page.rows[name], names = Object.keys(columns);
  const length = names.length ? columns[names[0]].length : 0;
  return Array.from({ length }, (_, i) => Object.fromEntries(names.map(n => [n, columns[n][i]])));
}

// ------------------------------------------------------------------------------------- charts

const isDark = matchMedia("(prefers-color-scheme: dark)");

// A specification is written in the light colours; its rows are no part of it.
function coloured(spec) {
  const text = JSON.stringify(spec);
  return JSON.parse(isDark.matches ? text.replace(/#[0-9a-f]{6}/g, c => page.dark[c] || c) : text);
}

async function draw(figure) {
  const spec = coloured(page.charts[figure.dataset.chart]), name = figure.dataset.rows;
  spec.datasets = { [name.split(":")[0]]: rowsOf(name) };
  const live = figure.querySelector(".live");
  const options = { actions: false, ast: true, renderer: "canvas" };  // ast: without eval
  figure.view?.finalize();
  live.hidden = false;
  figure.view = (await vegaEmbed(live, spec, options)).view;
  figure.querySelector(".still")?.setAttribute("hidden", "");
}

async function drawAll() {
  for (const figure of document.querySelectorAll("[data-chart]")) {
    try {
      await draw(figure);
    } catch (error) {           // the picture stays
      console.error(error);
      figure.querySelector(".live").hidden = true;
    }
  }
  document.body.dataset.drawn = isDark.matches ? "dark" : "light";
}

// ------------------------------------------------------------------------------------- tables

// Numbers by their size, other values as text; what is missing comes last, whatever the direction.
function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return direction * (a - b);
  return direction * String(a).localeCompare(String(b), "en", { numeric: true });
}

// A field of CSV. Spreadsheets take text that begins like a formula for one: it gets an apostrophe.
function csvField(value) {
  if (typeof value === "number") return String(value);
  const text = value === null ? "" : String(value);
  const harmless = /^[=+\-@\t\r]/.test(text) && isNaN(text) ? "'" + text : text;
  return /[",\n\r]/.test(harmless) ? '"' + harmless.replaceAll('"', '""') + '"' : harmless;
}

// The rows of a table: of the page's data, or those that stand in it. Each is a list of cells
// { value: to sort by, text: to show, saved: in a CSV file }.
function cellsOf(table, name, fields) {
  if (!name)
    return [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => {
      const text = cell.textContent, number = /^[+-]?[\d.]+%?($| )/.test(text);
      return { value: number ? parseFloat(text) : text, text, saved: text };
    }));
  const rows = rowsOf(name), named = new Map(rows.map(row => [row.n, row.candidate]));
  const nameOf = n => named.get(n).includes("\n") ? `evaluation ${n}` : named.get(n);
  const shown = {
    score: row => row.valid ? { value: row.score, text: row.score.toFixed(4) }
                            : { value: null, text: "invalid" },
    origin: row => ({ value: page.origins[row.origin] || row.origin }),
    parents: row => ({ value: row.parents.map(n => nameOf(n)).join(", ") || null }),
  };
  return rows.map(row => fields.map(field => {
    const cell = Object.hasOwn(shown, field) ? shown[field](row) : { value: row[field] };
    return { text: cell.value === null ? "" : String(cell.value), saved: cell.value, ...cell };
  }));
}

function element(tag, attributes = {}, text = "") {
  const made = Object.assign(document.createElement(tag), attributes);
  made.textContent = text;
  return made;
}

function activate(box) {
  const table = box.querySelector("table"), heads = [...table.tHead.rows[0].cells];
  const all = cellsOf(table, box.dataset.rows, heads.map(head => head.dataset.field));
  const kinds = heads.map(head => head.className);
  let chosen = all, first = 0;

  const search = element("input", { type: "search", placeholder: "Search" });
  search.setAttribute("aria-label", "Search the table");
  const save = element("button", { type: "button" }, "Save as CSV");
  const back = element("button", { type: "button", title: "Back" }, "\u2190");
  const on = element("button", { type: "button", title: "On" }, "\u2192");
  const where = element("span");
  const tools = element("div", { className: "tools" });
  tools.append(search, save, where, back, on);
  box.prepend(tools);
  search.hidden = all.length < 8;
  tools.hidden = all.length < 2;

  function show() {
    const last = Math.min(first + PAGE_SIZE, chosen.length);
    const body = document.createElement("tbody");
    for (const cells of chosen.slice(first, last)) {
      const row = body.insertRow();
      cells.forEach((cell, i) => {
        const place = row.insertCell();
        place.className = kinds[i];
        if (kinds[i].includes("text")) place.append(element("div", {}, cell.text));
        else place.textContent = cell.text;
      });
    }
    table.tBodies[0].replaceWith(body);
    const range = chosen.length ? `${first + 1} to ${last} of ` : "";
    where.textContent = range + chosen.length + (chosen === all ? "" : `, found in ${all.length}`);
    back.disabled = first === 0;
    on.disabled = last === chosen.length;
    back.hidden = on.hidden = chosen.length <= PAGE_SIZE;
  }

  function find() {
    const words = search.value.toLowerCase();
    chosen = words ? all.filter(cells => cells.some(c => c.text.toLowerCase().includes(words)))
                   : all;
    first = 0;
    show();
  }

  function sort(i, direction) {
    all.sort((a, b) => compare(a[i].value, b[i].value, direction));
    heads.forEach(head => head.removeAttribute("aria-sort"));
    heads[i].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    find();
  }

  heads.forEach((head, i) => {
    const button = element("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : typeof all[0]?.[i].value === "number";
      sort(i, down ? -1 : 1);
    });
  });
  search.addEventListener("input", find);
  back.addEventListener("click", () => { first -= PAGE_SIZE; show(); });
  on.addEventListener("click", () => { first += PAGE_SIZE; show(); });
  save.addEventListener("click", () => {
    const lines = [heads.map(head => csvField(head.textContent)).join(",")];
    for (const cells of chosen) lines.push(cells.map(c => csvField(c.saved)).join(","));
    const file = new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" });
    const link = element("a", { href: URL.createObjectURL(file), download: box.dataset.file });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  const sorted = heads.findIndex(head => "sorted" in head.dataset);
  if (sorted >= 0) sort(sorted, -1);
  else show();
}

document.querySelectorAll(".grid").forEach(activate);
document.querySelectorAll(".scripted").forEach(part => part.removeAttribute("hidden"));
isDark.addEventListener("change", drawAll);
drawAll();

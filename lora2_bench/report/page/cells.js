// The list of cells: filter, sort, a row's command and record, and all of what the filter leaves as CSV.
page.makeCells = (number) => {
  const source = document.getElementById("cell-data");
  if (!source) return;
  const ROWS_AT_ONCE = 100;
  const NUMERIC = new Set(["seed", "best", "looks at dev", "last", "seconds", "parameters"]);
  const DIGITS = { best: 2, last: 2, seconds: 1 };
  const data = JSON.parse(source.textContent);
  const names = data.columns, listed = names.slice(0, data.shown);
  Object.entries(data.texts).forEach(([at, texts]) => data.rows.forEach((row) => { row[at] = texts[row[at]]; }));
  data.rows.forEach((row) => { row.text = row.slice(0, 8).concat(row[13]).join(" ").toLowerCase(); });
  const cells = { shown: [], count: ROWS_AT_ONCE };

  const idButton = (row, line) => {
    const button = page.element("button", row[0]);
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const isOpen = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!isOpen));
      if (isOpen) {
        line.nextElementSibling.remove();
        return;
      }
      const details = page.element("td");
      details.colSpan = listed.length;
      const box = page.element("div");
      box.className = "details";
      const [finished, command, error] = ["finished", "command", "error"].map((name) => row[names.indexOf(name)]);
      box.append(page.element("p", `Record: cells/${row[0]}/record.json`), page.element("pre", command),
        page.element("p", `Finished ${finished}`));
      if (error) box.append(page.element("p", `Failed: ${error}`));
      details.append(box);
      const below = page.element("tr");
      below.append(details);
      line.after(below);
    });
    return button;
  };
  const shown = (value, name) => {
    if (value === null) return "–";
    return name in DIGITS ? value.toFixed(DIGITS[name]) : String(value);
  };
  const show = () => {
    const body = document.querySelector("#cell-table tbody");
    body.replaceChildren(...cells.shown.slice(0, cells.count).map((row) => {
      const line = page.element("tr");
      listed.forEach((name, index) => {
        const cell = page.element("td", index === 0 ? undefined : shown(row[index], name));
        if (index === 0) cell.append(idButton(row, line));
        if (NUMERIC.has(name)) cell.className = "number";
        if (name === "status" && row[index] !== "done") cell.className = "failed";
        line.append(cell);
      });
      return line;
    }));
    const seen = Math.min(cells.count, cells.shown.length);
    document.getElementById("count").textContent =
      `${seen} of ${cells.shown.length} shown, ${data.rows.length} in all`;
    document.getElementById("more").hidden = seen === cells.shown.length;
  };
  page.filterCells = (text) => {
    page.state.filter = text;
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    cells.shown = data.rows.filter((row) => words.every((word) => row.text.includes(word)));
    cells.count = ROWS_AT_ONCE;
    show();
  };

  const table = document.getElementById("cell-table");
  const line = table.createTHead().insertRow();
  const headers = listed.map((name) => {
    const header = page.element("th", name);
    header.scope = "col";
    if (NUMERIC.has(name)) header.className = "number";
    line.append(header);
    return header;
  });
  table.createTBody();
  const sort = (column, direction) => {
    if (!headers[column]) return;
    data.rows.sort((a, b) => page.compare(a[column], b[column], direction));
    page.mark(headers, column, direction);
    page.state.sort = `${number}:${column}:${direction}`;
    page.filterCells(page.state.filter);
  };
  page.makeButtons(headers, sort);
  page.sorters[number] = sort;
  page.makeDownload(table, () => [names, ...cells.shown.map((row) => names.map((_, at) => row[at]))]);
  document.getElementById("filter").addEventListener("input", (event) => {
    page.filterCells(event.target.value);
    page.remember();
  });
  document.getElementById("more").addEventListener("click", () => {
    cells.count += ROWS_AT_ONCE;
    show();
  });
  page.filterCells("");
};

// Method A against method B, from scores by task and seed.
page.makeVersus = () => {
  const source = document.getElementById("versus-data");
  if (!source) return;
  const all = JSON.parse(source.textContent);
  const pickers = ["method-a", "method-b"].map((id) => document.getElementById(id));
  const [table, examples] = ["versus-table", "versus-examples"].map((id) => document.getElementById(id));
  const said = document.getElementById("versus-said");
  document.getElementById("versus").hidden = false;
  let board = all[0];

  const signed = (value, digits = 2) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const place = (i, j, n) => { // of a pair in a list of all pairs
    const [low, high] = i < j ? [i, j] : [j, i];
    return low * n - (low * (low + 1)) / 2 + high - low - 1;
  };
  const interval = (values) => {
    const n = values.length, middle = mean(values);
    if (n < 2 || Math.max(...values) - Math.min(...values) < 1e-9) return "unknown";
    const half = board.t[n] * Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (n - 1) / n);
    return `${signed(middle - half)} to ${signed(middle + half)}`;
  };
  const shownP = (p) => (p === null || p === undefined ? "–" : p < 0.0001 ? "< 0.0001" : p.toFixed(4));
  const fill = (target, head, rows) => {
    const line = page.element("tr");
    line.append(...head.map((text, index) => {
      const cell = page.element("th", text);
      cell.scope = "col";
      if (index) cell.className = "number";
      return cell;
    }));
    const top = page.element("thead"), body = page.element("tbody");
    top.append(line);
    body.append(...rows.map((row) => {
      const made = page.element("tr");
      made.append(...row.map((text, index) => {
        const cell = page.element("td", text);
        if (index && !/\p{L}{3}/u.test(text)) cell.className = "number";
        return cell;
      }));
      return made;
    }));
    target.replaceChildren(top, body);
  };
  const ofSeed = (task, a, b) => board.seeds.map((_, at) => {
    const [ours, theirs] = [task.scores[a][at], task.scores[b][at]];
    return ours === null || theirs === null ? null : ours - theirs;
  });
  const row = (name, differences, p) => {
    const known = differences.filter((value) => value !== null);
    const numbers = known.length ? [signed(mean(known)), interval(known), shownP(p)] : ["–", "no common seed", "–"];
    return [name, ...numbers, String(known.length), ...differences.map((one) => (one === null ? "–" : signed(one)))];
  };

  // P(|sum of signed sizes| >= observed) where each row's difference has a fair random sign: the exact test of
  // docs/STATISTICS.md. For one seed it is the binomial test of the discordant rows.
  const mcnemar = (differences) => {
    const sizes = differences.map(Math.abs).filter((size) => size);
    const observed = Math.abs(differences.reduce((sum, one) => sum + one, 0));
    if (!observed) return 1;
    const total = sizes.reduce((sum, size) => sum + size, 0);
    const chances = new Float64Array(total + 1); // of the sum of those that are positive
    chances[0] = 1;
    let reach = 0;
    sizes.forEach((size) => {
      for (let at = reach; at >= 0; at -= 1) {
        chances[at] /= 2;
        chances[at + size] += chances[at];
      }
      reach += size;
    });
    return Math.min(1, chances.reduce((sum, one, at) => (Math.abs(total - 2 * at) >= observed ? sum + one : sum), 0));
  };
  const bitsOf = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const onlyOne = (task, a, b) => {
    const [ours, theirs] = [(task.right || {})[a] || {}, (task.right || {})[b] || {}];
    const seeds = Object.keys(ours).filter((seed) => seed in theirs);
    if (!seeds.length) return null;
    const counts = [0, 0], always = [[], []], differences = [];
    const sides = seeds.map((seed) => [bitsOf(ours[seed]), bitsOf(theirs[seed])]);
    for (let index = 0; index < task.rows; index += 1) {
      const bit = 128 >> (index % 8), at = index >> 3, alone = [0, 0];
      sides.forEach(([mine, other]) => {
        if ((mine[at] & bit) && !(other[at] & bit)) alone[0] += 1;
        if (!(mine[at] & bit) && (other[at] & bit)) alone[1] += 1;
      });
      differences.push(alone[0] - alone[1]);
      [0, 1].forEach((side) => {
        counts[side] += alone[side];
        if (alone[side] === seeds.length) always[side].push(index);
      });
    }
    const listed = (rows) => rows.slice(0, 12).join(" ") + (rows.length > 12 ? ` and ${rows.length - 12} more` : "") || "none";
    return [task.name, `${seeds.length}`, (counts[0] / seeds.length).toFixed(1), (counts[1] / seeds.length).toFixed(1),
      shownP(mcnemar(differences)), listed(always[0]), listed(always[1])];
  };

  const show = () => {
    const [a, b] = pickers.map((picker) => picker.selectedIndex);
    page.state.a = board.names[a] || "";
    page.state.b = board.names[b] || "";
    if (a < 0 || b < 0 || a === b) {
      said.textContent = board.names.length > 1 ? "Choose two different methods." : "There is one method only.";
      [table, examples].forEach((one) => one.replaceChildren());
      return;
    }
    const per = board.tasks.map((task) => ofSeed(task, a, b));
    const rows = board.tasks.map((task, at) => row(task.name, per[at], task.p[place(a, b, board.names.length)]));
    if (a < board.ranked && b < board.ranked && board.averaged.length > 1) {
      const whole = board.seeds.map((_, seed) => {
        const found = board.averaged.map((task) => per[task][seed]);
        return found.includes(null) ? null : mean(found);
      });
      rows.unshift(row(`average of ${board.averaged.length}`, whole, board.holm[place(a, b, board.ranked)]));
    }
    fill(table, ["task", "A − B", "95 % interval", "p", "n", ...board.seeds.map((seed) => `seed ${seed}`)], rows);
    const right = board.tasks.map((task) => onlyOne(task, a, b)).filter(Boolean);
    fill(examples, right.length ? ["task", "seeds", "only A, rows a seed", "only B, rows a seed", "McNemar p", "rows of A alone", "rows of B alone"]
      : ["No predictions of both methods were read"], right);
    said.textContent = `${board.names[a]} minus ${board.names[b]}: ${rows[0][1]} points on ${rows[0][0]}, ` +
      `95 % interval ${rows[0][2]}, p ${rows[0][3]}.`;
  };

  page.onSwitch.push(() => {
    board = all.find((one) => one.place === page.state.place && one.protocol === page.state.protocol) || all[0];
    [page.state.a, page.state.b].forEach((wanted, at) => {
      pickers[at].replaceChildren(...board.names.map((name) => page.element("option", name)));
      const known = board.names.indexOf(wanted);
      pickers[at].selectedIndex = known >= 0 ? known : Math.min(at, board.names.length - 1);
    });
    show();
  });
  pickers.forEach((picker) => picker.addEventListener("change", () => { show(); page.remember(); }));
  [table, examples].forEach((one) => page.makeDownload(one, () => page.textOf(one)));
};

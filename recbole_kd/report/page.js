"use strict";
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const phone = window.matchMedia("(max-width: 40rem)");
  const figures = Array.from(document.querySelectorAll("figure.chart"), (place) => ({
    plot: place.querySelector(".plot"),
    content: JSON.parse(place.querySelector("script[type='application/json']").textContent),
  }));

  function template() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
      title: { standoff: 8, font: { size: phone.matches ? 11 : 13 } },
    };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("--ink"), family: "system-ui, sans-serif", size: phone.matches ? 11 : 13 },
        hoverlabel: { bgcolor: colour("--panel"), font: { color: colour("--ink") } },
        xaxis: axis,
        yaxis: axis,
        margin: { l: 60, r: 16, t: 12, b: 48 },
        legend: { orientation: "h", yanchor: "bottom", y: 1.01, xanchor: "left", x: 0 },
      },
    };
  }

  function draw() {
    const own = template();
    const config = { responsive: true, displaylogo: false, displayModeBar: false };
    for (const { plot, content } of figures) {
      if (content.layout.height) plot.style.height = content.layout.height + "px";
      const layout = Object.assign({}, content.layout, { template: own });
      Plotly.react(plot, content.data, layout, config);
    }
    document.body.dataset.drawn = String(figures.length);
  }

  function number(text) {
    const found = /^[^0-9.+-]*([+-]?[0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)/i.exec(text.replace(/,/g, ""));
    return found ? parseFloat(found[1]) : NaN;
  }

  function sortable(table) {
    table.querySelectorAll("th").forEach((head, column) => {
      head.dataset.sortable = "";
      head.tabIndex = 0;
      let up = false;
      const sort = () => {
        const body = table.tBodies[0];
        const rows = Array.from(body.rows);
        const text = (row) => row.cells[column].textContent;
        const numeric = rows.some((row) => !Number.isNaN(number(text(row)))) && column > 0;
        rows.sort((one, other) => {
          if (!numeric) return text(one).localeCompare(text(other));
          const [a, b] = [number(text(one)), number(text(other))];
          return Number.isNaN(a) ? 1 : Number.isNaN(b) ? -1 : b - a;
        });
        if (up) rows.reverse();
        up = !up;
        body.append(...rows);
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
  }

  document.querySelectorAll("section > .wide > table").forEach(sortable);
  draw();
  dark.addEventListener("change", draw);
  phone.addEventListener("change", draw);
})();

"use strict";
(() => {
  const WELL = new Set(["running", "complete"]);
  const OVER = new Set(["failed", "rejected", "orphaned", "shutdown", "remove"]);
  const AGAIN_MILLISECONDS = 3000;
  const AGES_MILLISECONDS = 10_000;
  const byName = new Intl.Collator("en", { numeric: true }).compare;

  const byId = (id) => document.getElementById(id);
  const summary = byId("summary"), connection = byId("connection"), trouble = byId("trouble");
  const filterInput = byId("filter"), unwellButton = byId("unwell");
  let cluster, columns, cards, serviceButtons, chosenService = "", clockAhead = 0, stream;

  byId("scriptless").hidden = true;

  // ---- words

  const element = (tag, className, ...content) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...content.filter((part) => part !== undefined && part !== ""));
    return made;
  };

  const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };

  function duration(seconds) {
    const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"]].find(([size]) => seconds >= size) ?? [1, "s"];
    return `${Math.max(0, Math.floor(seconds / size))} ${unit}`;
  }

  const ageOf = (since) => duration((Date.now() + clockAhead) / 1000 - since);
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

  function age(since, prefix = "", suffix = "") {
    const made = element("time", "age muted small");
    made.dateTime = new Date(since * 1000).toISOString();
    made.title = new Date(since * 1000).toLocaleString();
    Object.assign(made.dataset, { since, prefix, suffix });
    showAge(made);
    return made;
  }

  const showAge = (node) => setText(node, node.dataset.prefix + ageOf(Number(node.dataset.since)) + node.dataset.suffix);

  // ---- what is well

  const taskMood = (task) => (WELL.has(task.state) ? "good" : OVER.has(task.state) ? "bad" : "wait");
  const nodeMood = (node) => (node.state !== "ready" || node.reachability ? "bad" : node.availability !== "active" ? "wait" : "good");
  const versionMood = ({ state, error }) => (error || state === "END" ? "bad" : state === "AVAILABLE" ? "good" : "wait");
  const isModelWell = (model) => !model.error && model.versions.length > 0 && model.versions.every((one) => versionMood(one) === "good");
  const isWell = (task) => taskMood(task) === "good" && !task.error && (task.models ?? []).every(isModelWell);

  // ---- tasks

  const serviceOf = (task) => cluster.services[task.service] ?? { name: task.service };
  const compareTasks = (one, other) => (one.task.slot ?? 0) - (other.task.slot ?? 0) || byName(one.id, other.id);

  function modelLines(model) {
    const lines = model.versions.map((one) => {
      const line = element("li", "", element("span", "", `${model.name} ${one.version}`));
      for (const label of one.labels ?? []) line.append(" ", element("span", "label", label));
      line.append(" ", element("span", `small ${versionMood(one)}`, one.state));
      if (one.error) line.append(" ", element("span", "small bad", one.error));
      return line;
    });
    if (model.error) lines.push(element("li", "small bad", `${model.name}: ${model.error}`));
    else if (!lines.length) lines.push(element("li", "small bad", `${model.name}: no version is served`));
    return lines;
  }

  function drawCard(id, task) {
    const service = serviceOf(task);
    const name = task.slot ? `${service.name}.${task.slot}` : service.name;
    const node = element("li", `task ${taskMood(task)}`);
    const head = element("p", "head", element("strong", "name", name), " ", element("span", `state ${taskMood(task)}`, task.state));
    if (task.since) head.append(" ", age(task.since));
    node.append(head);
    if (task.image) node.append(element("p", "small muted", task.image));
    if (task.error) node.append(element("p", "small bad", task.error));
    if (task.failures) {
      const { count, at, error } = task.failures;
      node.append(element("p", "small muted failures", age(at, count === 1 ? "Failed " : `Failed ${count} times, last `, " ago"), error && `: ${error}`));
    }
    if (task.models) node.append(element("ul", "models", ...task.models.flatMap(modelLines)));
    else if (task.serves && task.state === "running") node.append(element("p", "small muted", "Asking for its models"));
    const host = cluster.nodes[task.node]?.name ?? "";
    const card = { id, task, node, group: undefined };
    card.text = `${node.textContent} ${service.stack ?? ""} ${service.image ?? ""} ${host}`.toLowerCase();
    return card;
  }

  function placeCard(id, isNew) {
    const task = cluster.tasks[id];
    const card = drawCard(id, task);
    const old = cards.get(id);
    cards.set(id, card);
    const group = groupFor(task);
    if (old?.group === group) old.node.replaceWith(card.node);
    else {
      if (old) leaveGroup(old);
      const next = [...group.cards].filter((other) => compareTasks(card, other) < 0).sort(compareTasks)[0];
      group.list.insertBefore(card.node, next?.node ?? null);
    }
    if (old?.group === group) group.cards.delete(old);
    group.cards.add(card);
    card.group = group;
    if (isNew) card.node.classList.add("new");
  }

  function removeCard(id) {
    leaveGroup(cards.get(id));
    cards.delete(id);
  }

  function leaveGroup(card) {
    const { group } = card;
    card.node.remove();
    group.cards.delete(card);
    if (group.cards.size) return;
    group.node.remove();
    group.column.groups.delete(group.service);
    if (!group.column.groups.size && !cluster.nodes[group.column.id]) {
      group.column.node.remove();
      columns.delete(group.column.id);
    }
  }

  function groupFor(task) {
    let column = columns.get(task.node ?? "");
    if (!column) {
      column = newColumn(task.node ?? "");
      sortColumns();
    }
    let group = column.groups.get(task.service);
    if (!group) {
      const list = element("ul"), title = element("h4");
      group = { service: task.service, column, list, title, node: element("div", "group", title, list), cards: new Set() };
      drawGroup(group);
      const next = [...column.groups.values()].filter((other) => byName(group.name, other.name) < 0).sort((a, b) => byName(a.name, b.name))[0];
      column.node.insertBefore(group.node, next?.node ?? null);
      column.groups.set(task.service, group);
    }
    return group;
  }

  function drawGroup(group) {
    const service = serviceOf({ service: group.service });
    group.name = service.name;
    group.title.replaceChildren(service.name, " ", element("span", "image muted", service.image));
  }

  // ---- nodes

  function newColumn(id) {
    const head = element("div", "about"), node = element("article", "node", head);
    const column = { id, head, node, groups: new Map() };
    columns.set(id, column);
    drawColumn(column);
    return column;
  }

  function drawColumn(column) {
    const node = cluster.nodes[column.id];
    if (!node) {
      column.node.className = "node wait";
      column.head.replaceChildren(element("h3", "", column.id ? `Gone: ${column.id}` : "On no node yet"));
      return;
    }
    const state = [node.state, node.availability === "active" ? "" : node.availability, node.reachability].filter(Boolean).join(", ");
    const part = node.leader ? "manager, leader" : node.role;
    const size = [node.cpus && plural(node.cpus, "core"), node.memory && `${(node.memory / 2 ** 30).toFixed(1)} GiB`, node.engine && `Docker ${node.engine}`];
    column.node.className = `node ${nodeMood(node)}`;
    column.head.replaceChildren(
      element("h3", "", node.name),
      element("p", "small", element("span", nodeMood(node), state), element("span", "muted", ` ${part} ${node.address ?? ""}`)),
      element("p", "small muted", size.filter(Boolean).join(", ")),
    );
    if (node.message) column.head.append(element("p", "small bad", node.message));
  }

  // Tasks without a node first, then managers, then workers.
  const rank = ({ id }) => (!cluster.nodes[id] ? 0 : cluster.nodes[id].role === "manager" ? 1 : 2);

  function sortColumns() {
    const wanted = [...columns.values()].sort((one, other) =>
      rank(one) - rank(other) || byName(cluster.nodes[one.id]?.name ?? one.id, cluster.nodes[other.id]?.name ?? other.id));
    const list = byId("nodes");
    wanted.forEach(({ node }, index) => {
      if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
    });
  }

  // ---- services

  function countTasks() {
    const counts = {};
    for (const { service, state } of Object.values(cluster.tasks)) {
      counts[service] ??= { all: 0, well: 0 };
      counts[service].all += 1;
      if (WELL.has(state)) counts[service].well += 1;
    }
    return counts;
  }

  function drawServices() {
    const counts = countTasks(), list = byId("services");
    const ids = Object.keys(cluster.services).sort((one, other) => {
      const [a, b] = [cluster.services[one], cluster.services[other]];
      return byName(a.stack ?? "", b.stack ?? "") || byName(a.name, b.name);
    });
    if (!cluster.services[chosenService]) chosenService = "";
    for (const [id, { item }] of serviceButtons) {
      if (!cluster.services[id]) {
        item.remove();
        serviceButtons.delete(id);
      }
    }
    ids.forEach((id, index) => {
      const known = serviceButtons.get(id) ?? newServiceButton(id);
      if (list.children[index] !== known.item) list.insertBefore(known.item, list.children[index] ?? null);
      const service = cluster.services[id], { well = 0, all = 0 } = counts[id] ?? {};
      const wanted = service.wanted ?? all;
      const shown = JSON.stringify([service, well, wanted]);
      if (known.shown === shown) return;
      known.shown = shown;
      known.button.replaceChildren(
        element("strong", "", service.name),
        element("span", `count ${well >= wanted ? "good" : "bad"}`, `${well}/${wanted}`),
        element("span", "wide small muted", service.image),
        element("span", "wide small muted", service.stack),
      );
      if (service.update) {
        const mood = /paused/.test(service.update) ? "bad" : "wait";
        known.button.append(element("span", `wide small ${mood}`, `${service.update.replaceAll("_", " ")}: ${service.update_message ?? ""}`));
      }
    });
    for (const [id, { button }] of serviceButtons) button.setAttribute("aria-pressed", String(id === chosenService));
  }

  function newServiceButton(id) {
    const button = element("button"), known = { button, item: element("li", "", button), shown: "" };
    button.type = "button";
    button.addEventListener("click", () => {
      chosenService = chosenService === id ? "" : id;
      drawServices();
      filter();
    });
    serviceButtons.set(id, known);
    return known;
  }

  // ---- all of it

  function report() {
    const nodes = Object.values(cluster.nodes), tasks = Object.values(cluster.tasks);
    const down = nodes.filter((node) => nodeMood(node) === "bad").length;
    const unwell = tasks.filter((task) => !isWell(task)).length;
    const said = [plural(nodes.length, "node"), plural(Object.keys(cluster.services).length, "service"), plural(tasks.length, "task")];
    if (down) said.push(`${plural(down, "node")} down`);
    said.push(unwell ? `${plural(unwell, "task")} not well` : "all tasks well");
    setText(summary, said.join(", "));
    document.title = down || unwell ? "Cluster: not well" : "Cluster";
  }

  function filter() {
    const words = filterInput.value.toLowerCase().split(/\s+/).filter(Boolean);
    const unwellOnly = unwellButton.getAttribute("aria-pressed") === "true";
    const filtered = words.length > 0 || unwellOnly || chosenService !== "";
    let shown = 0;
    for (const { task, node, text } of cards.values()) {
      const fits = (!chosenService || task.service === chosenService) && (!unwellOnly || !isWell(task)) &&
        words.every((word) => text.includes(word));
      if (node.hidden === fits) node.hidden = !fits;
      shown += fits;
    }
    for (const column of columns.values()) {
      let any = false;
      for (const group of column.groups.values()) {
        const some = [...group.cards].some(({ node }) => !node.hidden);
        group.node.hidden = !some;
        any ||= some;
      }
      const unwellNode = unwellOnly && cluster.nodes[column.id] && nodeMood(cluster.nodes[column.id]) !== "good";
      column.node.hidden = filtered && !any && !unwellNode;
    }
    byId("nothing").hidden = !filtered || shown > 0;
  }

  function begin(picture) {
    clockAhead = picture.now * 1000 - Date.now();
    cluster = { nodes: {}, services: {}, tasks: {} };
    columns = new Map();
    cards = new Map();
    serviceButtons = new Map();
    byId("nodes").replaceChildren();
    byId("services").replaceChildren();
    change(picture, false);
  }

  function change(changes, isNew = true) {
    const { nodes = {}, services = {}, tasks = {} } = changes;
    const moved = new Set(Object.keys(tasks));
    merge(cluster.nodes, nodes);
    merge(cluster.services, services);
    const known = new Set(Object.keys(cluster.tasks));
    merge(cluster.tasks, tasks);
    for (const id of Object.keys(nodes)) {
      const column = columns.get(id);
      if (!column) newColumn(id);
      else if (cluster.nodes[id] || column.groups.size) drawColumn(column);
      else {
        column.node.remove();
        columns.delete(id);
      }
    }
    if (Object.keys(nodes).length) sortColumns();
    if (Object.keys(services).length) {
      for (const { groups } of columns.values()) for (const group of groups.values()) if (group.service in services) drawGroup(group);
      for (const [id, { service }] of Object.entries(cluster.tasks)) if (service in services) moved.add(id);
    }
    for (const id of moved) {
      if (cluster.tasks[id]) placeCard(id, isNew && id in tasks && !known.has(id));
      else if (cards.has(id)) removeCard(id);
    }
    if ("trouble" in changes) {
      trouble.hidden = !changes.trouble;
      setText(trouble, changes.trouble ? `This is how it was last seen: ${changes.trouble}` : "");
    }
    drawServices();
    report();
    filter();
  }

  function merge(into, changes) {
    for (const [id, value] of Object.entries(changes)) {
      if (value === null) delete into[id];
      else into[id] = value;
    }
  }

  // ---- the stream

  function connect() {
    if (stream || document.hidden) return;
    stream = new EventSource("events");
    stream.addEventListener("picture", ({ data }) => {
      begin(JSON.parse(data));
      setConnection("live", "Live");
    });
    stream.addEventListener("change", ({ data }) => change(JSON.parse(data)));
    stream.addEventListener("error", () => {
      setConnection("lost", `No connection since ${new Date().toLocaleTimeString()}`);
      // The browser tries again by itself, unless the answer was no stream.
      if (stream?.readyState === EventSource.CLOSED) {
        disconnect();
        setTimeout(connect, AGAIN_MILLISECONDS);
      }
    });
  }

  function disconnect() {
    stream?.close();
    stream = undefined;
  }

  function setConnection(className, text) {
    if (className === "lost" && connection.classList.contains("lost")) return;
    connection.className = `connection ${className}`;
    connection.textContent = text;
  }

  // Nobody looks at a page that is in the background.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) disconnect();
    else connect();
  });
  filterInput.addEventListener("input", () => { if (cluster) filter(); });
  unwellButton.addEventListener("click", () => {
    unwellButton.setAttribute("aria-pressed", String(unwellButton.getAttribute("aria-pressed") !== "true"));
    if (cluster) filter();
  });
  setInterval(() => { for (const node of document.querySelectorAll("#nodes .age")) showAge(node); }, AGES_MILLISECONDS);
  connect();
})();

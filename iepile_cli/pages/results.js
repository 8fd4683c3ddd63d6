// The page of results. Data comes from two script elements of JSON; what is shown of it becomes
// text nodes and attributes alone, never markup, addresses or code.
(() => {
'use strict';

const ROW = 54; // height of an entry in the list of documents, in pixels
const TABLE_ROW = 37; // height of a row of the summary, its line included
const BLOCK = 3000; // characters of a block of text; marks are made when it comes into view
const LONGEST_LINE = 20000; // a longer line is cut into blocks
const COLOURS = 12;
const CARDS = 150; // cards and names that are shown at first
const BEGIN = 90; // characters of a text's beginning in the list

const $ = (id) => document.getElementById(id);
const plural = (count, word, several) =>
  `${count.toLocaleString('en')} ${count === 1 ? word : several || word + 's'}`;

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === 'on') for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (name === 'text') made.textContent = value;
    else made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function taken(id) {
  const script = $(id);
  const value = JSON.parse(script.textContent);
  script.remove();
  return value;
}

// ------------------------------------------------------------------------------------- the data

const documents = taken('documents');
const { entries, tasks } = taken('summary');

const isPart = (value) => value && typeof value === 'object' && typeof value.text === 'string';

// The parts of an item with their roles; an item that is one mention has one without a role.
function partsOf(item, task) {
  if (task.single) return [['', item]];
  const parts = task.fixed.filter((role) => isPart(item[role])).map((role) => [role, item[role]]);
  for (const part of (task.slots && item[task.slots]) || []) parts.push([part.role, part]);
  return parts;
}

const typeOf = (item) =>
  item.subject_type || item.object_type
    ? `${item.subject_type || ''} -${item.type}-> ${item.object_type || ''}`
    : item.type;

const types = new Map(); // type -> {name, count, shown, colour, more}
let scored = false;
for (const one of documents) {
  one.task = tasks[one.task];
  for (const item of one.items) {
    const name = typeOf(item);
    const type = types.get(name) || { name, count: 0, shown: true };
    type.count += 1;
    types.set(name, type);
    if (typeof item.score === 'number') scored = true;
  }
}

// A type keeps its colour from page to page: it follows from its name. Types of one page differ as
// long as there are colours; after that lines are dashed.
function colour() {
  const used = new Map();
  for (const name of [...types.keys()].sort()) {
    let hash = 2166136261;
    for (const char of name.toLowerCase()) hash = Math.imul(hash ^ char.codePointAt(0), 16777619) >>> 0;
    let place = hash % COLOURS;
    const most = Math.floor(used.size / COLOURS);
    while ([...used.values()].filter((taken) => taken === place).length > most) place = (place + 1) % COLOURS;
    used.set(name, place);
    Object.assign(types.get(name), { colour: place, more: most > 0 });
  }
}
colour();
const colourClass = (name) => {
  const type = types.get(name);
  return type ? `c${type.colour}${type.more ? ' more' : ''}` : '';
};

const root = (number) => {
  while (entries[number].same !== undefined) number = entries[number].same;
  return number;
};

// Places are in characters of Unicode; a string of this language counts two units for some.
function unitsOf(text) {
  if (!/[\ud800-\udbff][\udc00-\udfff]/.test(text)) return (place) => place;
  const places = new Uint32Array(text.length + 1);
  let count = 0;
  let unit = 0;
  for (const char of text) {
    places[count++] = unit;
    unit += char.length;
  }
  places[count] = unit;
  return (place) => (place > count ? unit : places[place]);
}

// ----------------------------------------------------------------------------------- the filters

const state = { score: 0, words: '', entity: null, current: 0, list: [], mention: -1, view: 'read' };

const passes = (item) =>
  types.get(typeOf(item)).shown && !(typeof item.score === 'number' && item.score < state.score);
const shownItems = (one) => one.items.filter(passes).length;

const nameOf = (one) => (one.line ? `${one.source}:${one.line}` : one.source);

function holds(one, words) {
  return [nameOf(one), one.id || '', one.text || ''].some((text) => text.toLowerCase().includes(words));
}

function matching() {
  const words = state.words.trim().toLowerCase();
  const found = [];
  documents.forEach((one, number) => {
    if (state.entity !== null && !hasEntity(one, state.entity)) return;
    if (!words || holds(one, words)) found.push(number);
  });
  return found;
}

const hasEntity = (one, entity) =>
  one.items.some((item, number) => passes(item) && (one.groups[number] || []).some((group) => root(group) === entity));

function filtered() {
  state.list = matching();
  if (!state.list.includes(state.current) && state.list.length) state.current = state.list[0];
  showTotals();
  showList(true);
  showDocument();
  if (state.view === 'table') showTable();
}

function showTotals() {
  let items = 0;
  // The summary is of all documents, whatever the list is reduced to.
  const list = state.view === 'read' ? state.list : documents.keys();
  for (const number of list) items += shownItems(documents[number]);
  const some = state.view === 'read' && state.list.length !== documents.length;
  $('totals').textContent =
    (some ? `${state.list.length.toLocaleString('en')} of ` : '') +
    `${plural(documents.length, 'document')}, ${plural(items, 'item')}`;
}

function makeFilters() {
  const sorted = [...types.values()].sort((a, b) => b.count - a.count || (a.name < b.name ? -1 : 1));
  for (const type of sorted) {
    const chip = el('button', { type: 'button', class: `chip ${colourClass(type.name)}`, 'aria-pressed': 'true', title: type.name,
      on: { click: (event) => {
        // With Alt or a double click: this type alone, and all again.
        if (event.altKey || event.detail > 1) {
          const alone = sorted.every((other) => other.shown === (other === type));
          for (const other of sorted) other.shown = alone || other === type;
        } else type.shown = !type.shown;
        sorted.forEach((other) => other.chip.setAttribute('aria-pressed', String(other.shown)));
        filtered();
      } } },
      el('span', { class: 'swatch' }), el('bdi', { class: 'name', text: type.name }),
      el('span', { class: 'count', text: type.count.toLocaleString('en') }));
    type.chip = chip;
    $('types').append(chip);
  }
  const score = $('score');
  if (!scored) $('score-label').hidden = true;
  let waiting = 0;
  score.addEventListener('input', () => {
    state.score = Number(score.value);
    $('score-shown').textContent = state.score.toFixed(2);
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(filtered);
  });
  $('tags').addEventListener('change', showTags);
  let typing = 0;
  $('find').addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => { state.words = $('find').value; filtered(); }, 120);
  });
  $('entity-filter').addEventListener('click', () => { setEntity(null); $('find').focus(); });
}

const showTags = () => document.body.classList.toggle('untagged', !$('tags').checked);

function setEntity(entity) {
  state.entity = entity;
  const chip = $('entity-filter');
  chip.hidden = entity === null;
  if (entity !== null) {
    const entry = entries[entity];
    chip.className = `chip ${colourClass(entry.type)}`;
    chip.replaceChildren(el('span', { class: 'swatch' }), el('bdi', { class: 'name', text: entry.name }), el('span', { text: '×', 'aria-hidden': 'true' }));
    chip.setAttribute('aria-label', `Only documents with ${entry.name}; show all again`);
  }
  filtered();
}

// ------------------------------------------------------------------------- the list of documents

function showList(again) {
  const list = $('list');
  const room = $('list-room');
  room.style.height = `${state.list.length * ROW}px`;
  const place = state.list.indexOf(state.current);
  if (again) room.replaceChildren();
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
  const last = Math.min(state.list.length, Math.ceil((list.scrollTop + (list.clientHeight || 800)) / ROW) + 6);
  const kept = new Map([...room.children].map((child) => [Number(child.dataset.place), child]));
  for (const [at, child] of kept) if (!(at >= first && at < last)) child.remove();
  for (let at = first; at < last; at += 1) {
    const entry = kept.get(at) || room.appendChild(makeEntry(at));
    entry.setAttribute('aria-selected', String(at === place));
  }
  if (!state.list.length && !room.children.length) room.append(el('p', { class: 'none', text: 'No document.' }));
  if (place >= first && place < last) list.setAttribute('aria-activedescendant', `entry-${place}`);
  else list.removeAttribute('aria-activedescendant');
}

function makeEntry(at) {
  const one = documents[state.list[at]];
  const begin = (one.text || '').slice(0, 4 * BEGIN).replace(/\s+/g, ' ').trim().slice(0, BEGIN);
  const entry = el('div', { class: 'entry', role: 'option', id: `entry-${at}`, 'data-place': at,
    'aria-setsize': state.list.length, 'aria-posinset': at + 1, title: nameOf(one) },
    el('div', { class: 'line' },
      el('bdi', { class: 'name', text: nameOf(one) }),
      el('span', { class: 'count', text: shownItems(one).toLocaleString('en') })),
    el('div', { class: 'begin', dir: 'auto', text: one.text ? begin : 'without its text' }));
  entry.style.top = `${at * ROW}px`;
  return entry;
}

function makeList() {
  const list = $('list');
  let waiting = 0;
  const again = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => showList(false)); };
  list.addEventListener('scroll', again, { passive: true });
  new ResizeObserver(again).observe(list);
  list.addEventListener('click', (event) => {
    const entry = event.target.closest('.entry');
    if (entry) go(Number(entry.dataset.place));
  });
  list.addEventListener('keydown', (event) => {
    const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
    const at = state.list.indexOf(state.current);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: state.list.length - 1 }[event.key];
    if (event.key === 'Enter') { openSide(false); $('main').focus(); }
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    go(to, true);
  });
  $('before').addEventListener('click', () => step(-1));
  $('after').addEventListener('click', () => step(1));
  $('side-open').addEventListener('click', () => openSide(!$('side').classList.contains('open')));
}

function openSide(open) {
  $('side').classList.toggle('open', open);
  $('side-open').setAttribute('aria-expanded', String(open));
  if (open) { showList(true); $('find').focus(); }
}

const step = (by) => go(state.list.indexOf(state.current) + by, true);

// Show the document at a place of the list.
function go(at, stays) {
  if (!state.list.length) return;
  at = Math.min(state.list.length - 1, Math.max(0, at));
  state.current = state.list[at];
  const list = $('list');
  if (at * ROW < list.scrollTop) list.scrollTop = at * ROW;
  else if ((at + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (at + 1) * ROW - list.clientHeight;
  showList(false);
  showDocument();
  if (!stays) openSide(false);
}

// ------------------------------------------------------------------------------------ a document

let marks = []; // of the document shown: {start, end, type, role, score, items, also, lane}, by start
let blocks = []; // {start, end, node, done}
let watching = null;

function marksOf(one) {
  const found = new Map();
  const units = unitsOf(one.text);
  const add = (start, end, type, role, score, item, also) => {
    if (!(start < end)) return;
    const key = `${start} ${end} ${also ? 1 : 0} ${role} ${type}`;
    const before = found.get(key);
    if (before) {
      before.items.push(item);
      before.score = Math.max(before.score ?? -1, score ?? -1);
      return;
    }
    found.set(key, { from: start, to: end, start: units(start), end: units(end), type, role, score, items: [item], also, lane: 0, key: one.items[item].type, page: one.items[item].page });
  };
  one.items.forEach((item, number) => {
    if (!passes(item)) return;
    for (const [role, part] of partsOf(item, one.task)) {
      if (typeof part.start !== 'number') continue;
      add(part.start, part.end, typeOf(item), role, part.score, number, false);
      for (const [start, end] of part.occurrences || [])
        if (start !== part.start) add(start, end, typeOf(item), role, part.score, number, true);
    }
  });
  const sorted = [...found.values()].sort((a, b) => a.start - b.start || b.end - a.end);
  sorted.forEach((mark, number) => { mark.number = number; });
  setLanes(sorted);
  return sorted;
}

// Lines of marks that share characters lie under one another: the longer the lower.
function setLanes(sorted) {
  const shorter = sorted.map((mark, number) => number).sort(
    (a, b) => sorted[a].end - sorted[a].start - (sorted[b].end - sorted[b].start) || b - a);
  const placed = new Set();
  let longest = 0;
  for (const mark of sorted) longest = Math.max(longest, mark.end - mark.start);
  for (const number of shorter) {
    const mark = sorted[number];
    const near = (at) => {
      const other = sorted[at];
      if (placed.has(at) && other.start < mark.end && other.end > mark.start) mark.lane = Math.max(mark.lane, Math.min(5, other.lane + 1));
    };
    for (let at = number - 1; at >= 0 && sorted[at].start > mark.start - longest; at -= 1) near(at);
    for (let at = number + 1; at < sorted.length && sorted[at].start < mark.end; at += 1) near(at);
    placed.add(number);
  }
}

// Where to cut a text into blocks: at line ends, so that a block's end is one anyway.
function cutsOf(text) {
  const cuts = [];
  let start = 0;
  while (start < text.length) {
    let end = text.length;
    if (text.length - start > BLOCK) {
      const line = text.indexOf('\n', start + BLOCK);
      end = line < 0 ? text.length : line + 1;
      if (end - start > LONGEST_LINE) {
        const space = text.lastIndexOf(' ', start + LONGEST_LINE);
        end = space > start ? space + 1 : start + LONGEST_LINE;
        if (/[\udc00-\udfff]/.test(text[end])) end += 1;
      }
    }
    cuts.push([start, end]);
    start = end;
  }
  return cuts;
}

function showDocument() {
  hideTip();
  state.mention = -1;
  watching?.disconnect();
  const one = state.list.length ? documents[state.current] : null;
  const at = state.list.indexOf(state.current);
  const text = $('text');
  $('before').disabled = at <= 0;
  $('after').disabled = at < 0 || at >= state.list.length - 1;
  $('position').textContent = one ? `${(at + 1).toLocaleString('en')} / ${state.list.length.toLocaleString('en')}` : '';
  $('heading').replaceChildren(el('bdi', { text: one ? nameOf(one) : 'No document' }), one && one.id ? el('bdi', { class: 'soft', text: `  ${one.id}` }) : '');
  $('heading').title = one ? nameOf(one) : '';
  $('remark').hidden = !(one && (one.remark || one.truncated));
  $('remark').textContent = one ? [one.remark, one.truncated ? 'The answer was cut short.' : ''].filter(Boolean).join(' ') : '';
  marks = one && one.text ? marksOf(one) : [];
  blocks = [];
  text.replaceChildren();
  if (one && one.text) {
    const content = document.createDocumentFragment();
    for (const [start, end] of cutsOf(one.text)) {
      const node = el('div', { class: 'block', text: one.text.slice(start, end).replace(/\r?\n$/, '') });
      blocks.push({ start, end, node, done: false });
      content.append(node);
    }
    text.append(content);
    watching = new IntersectionObserver((seen) => {
      for (const entry of seen) if (entry.isIntersecting) mark(blocks.find((block) => block.node === entry.target));
    }, { root: $('main'), rootMargin: '600px' });
    for (const block of blocks) watching.observe(block.node);
    mark(blocks[0]);
  }
  showFound(one);
  if (shown !== state.current) { $('main').scrollTop = 0; shown = state.current; }
  if (one && state.entity !== null) toEntity(one);
}
let shown = -1;

// Where the name that documents are reduced to stands first.
function toEntity(one) {
  const items = one.items.map((item, number) => number).filter((number) =>
    passes(one.items[number]) && one.groups[number].some((group) => root(group) === state.entity));
  const at = marks.findIndex((found) => found.items.some((number) => items.includes(number)));
  if (at >= 0) { toMention(at, false); hideTip(); }
}

// Put a block's marks into it: nested ones into one another, crossing ones in pieces.
function mark(block) {
  if (!block || block.done) return;
  block.done = true;
  watching?.unobserve(block.node);
  const one = documents[state.current];
  const here = marks.filter((found) => found.start < block.end && found.end > block.start);
  if (!here.length) return;
  const bounds = new Set([block.start, block.end]);
  for (const found of here) {
    bounds.add(Math.max(found.start, block.start));
    bounds.add(Math.min(found.end, block.end));
  }
  const places = [...bounds].sort((a, b) => a - b);
  const content = document.createDocumentFragment();
  let open = []; // marks around the place, the outermost first
  let nodes = [];
  for (let number = 0; number + 1 < places.length; number += 1) {
    const [from, to] = [places[number], places[number + 1]];
    const kept = open.findIndex((found) => found.end <= from);
    if (kept >= 0) {
      const again = open.slice(kept).filter((found) => found.end > from);
      open = open.slice(0, kept);
      nodes = nodes.slice(0, kept);
      for (const found of again) push(found, from);
    }
    for (const found of here) if (Math.max(found.start, block.start) === from) push(found, from);
    const last = to === block.end;
    (nodes[nodes.length - 1] || content).append(last ? one.text.slice(from, to).replace(/\r?\n$/, '') : one.text.slice(from, to));
    for (let at = open.length - 1; at >= 0; at -= 1) if (open[at].end === to) label(nodes[at], open[at]);
  }
  block.node.replaceChildren(content);

  function push(found, from) {
    const node = el('span', { class: `m ${colourClass(found.type)}${found.also ? ' also' : ''}`, 'data-m': found.number });
    if (found.lane) node.style.setProperty('--lane', String(found.lane));
    if (from === found.start) node.dataset.first = '';
    (nodes[nodes.length - 1] || content).append(node);
    open.push(found);
    nodes.push(node);
  }
}

// What a mark is called in the text: what it is, or what it is in a relation or an event.
function tagOf(found, task) {
  const place = task.fixed.indexOf(found.role);
  if (task.single || (task.slots && place >= 0)) return found.type;
  if (place < 0) return found.role;
  return place ? `→ ${found.key}` : `${found.key} →`;
}

function label(node, found) {
  const tag = tagOf(found, documents[state.current].task);
  if (!found.also) node.dataset.tag = tag.length > 26 ? `${tag.slice(0, 25)}…` : tag;
}

const blockAt = (place) => blocks.find((block) => block.start <= place && place < block.end);
const nodesOf = (number) => [...$('text').querySelectorAll(`[data-m="${number}"]`)];

function toMention(number, focus = true) {
  const found = marks[number];
  if (!found) return;
  state.mention = number;
  const block = blockAt(found.start);
  mark(block);
  $('text').querySelectorAll('.here').forEach((node) => { node.classList.remove('here'); node.removeAttribute('tabindex'); });
  const nodes = nodesOf(number);
  nodes.forEach((node) => node.classList.add('here'));
  if (!nodes.length) return;
  nodes[0].scrollIntoView({ block: 'center' });
  nodes[0].tabIndex = -1;
  if (focus) nodes[0].focus({ preventScroll: true });
  showTip(nodes[0]);
}

function nextMention(by) {
  if (!marks.length) return;
  const from = state.mention < 0 ? (by > 0 ? -1 : 0) : state.mention;
  toMention((from + by + marks.length) % marks.length);
}

// ------------------------------------------------------------------- what is known of a mention

function showTip(node) {
  const around = [];
  for (let at = node; at && at !== $('text'); at = at.parentElement) if (at.dataset?.m) around.push(marks[at.dataset.m]);
  if (!around.length) return hideTip();
  const one = documents[state.current];
  const tip = $('tip');
  tip.replaceChildren(...around.map((found) => el('div', { class: `row ${colourClass(found.type)}` },
    el('span', { class: 'swatch' }),
    el('span', { class: 'what' }, el('bdi', { text: found.type }), found.role ? el('bdi', { text: ` · ${found.role}` }) : null),
    el('span', { class: 'score', text: typeof found.score === 'number' && found.score >= 0 ? found.score.toFixed(2) : '' }),
    el('span', { class: 'detail' },
      el('bdi', { dir: 'auto', text: `“${shortened(one.text.slice(found.start, found.end))}”` }), ` ${found.from}–${found.to}`,
      found.page ? `, page ${found.page}` : '', found.items.length > 1 ? `, in ${found.items.length} items` : ''))));
  tip.hidden = false;
  const box = node.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const below = box.bottom + 8 + own.height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 8))}px`;
  tip.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - own.height - 8)}px`;
  node.setAttribute('aria-describedby', 'tip');
  light(around.flatMap((found) => found.items), true);
}

function hideTip() {
  $('tip').hidden = true;
  document.querySelectorAll('[aria-describedby=tip]').forEach((node) => node.removeAttribute('aria-describedby'));
  light([], true);
}

const shortened = (text) => {
  const line = text.replace(/\s+/g, ' ');
  return line.length > 120 ? `${line.slice(0, 117)}…` : line;
};

// Show which marks and cards belong to items.
function light(items, ofMention) {
  document.querySelectorAll('.lit').forEach((node) => node.classList.remove('lit'));
  for (const item of new Set(items)) {
    document.querySelectorAll(`.card[data-item="${item}"]`).forEach((node) => node.classList.add('lit'));
    if (ofMention && documents[state.current].task.single) continue;
    marks.forEach((found, number) => {
      if (found.items.includes(item)) nodesOf(number).forEach((node) => node.classList.add('lit'));
    });
  }
}

// --------------------------------------------------------- beside the text: names, or the cards

function showFound(one) {
  const found = $('found');
  found.replaceChildren();
  if (!one) return;
  const items = one.items.map((item, number) => ({ item, number })).filter(({ item }) => passes(item));
  if (!items.length) {
    found.append(el('p', { class: 'soft', text: one.items.length ? 'Nothing here passes the filters.' : 'Nothing was found here.' }));
  } else if (one.task.single) showNames(found, one, items);
  else showCards(found, one, items, 0);
}

function showNames(found, one, items) {
  const byType = new Map();
  for (const { item, number } of items) {
    const type = typeOf(item);
    if (!byType.has(type)) byType.set(type, new Map());
    const groups = byType.get(type);
    if (!one.groups[number].length) continue;
    const group = root(one.groups[number][0]);
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(number);
  }
  for (const [type, groups] of byType) {
    const sorted = [...groups].sort((a, b) => b[1].length - a[1].length);
    found.append(el('h3', { class: colourClass(type) }, el('span', { class: 'swatch' }), el('bdi', { text: type })));
    const list = el('ul', { class: `names ${colourClass(type)}` });
    found.append(list);
    const more = (from) => {
      for (const [group, numbers] of sorted.slice(from, from + CARDS)) {
        let turn = 0;
        list.append(el('li', {}, el('button', { type: 'button', class: 'chip',
          title: entries[group].name, disabled: !one.text,
          on: { click: () => toItem(numbers[turn++ % numbers.length]) } },
          el('bdi', { class: 'name', dir: 'auto', text: entries[group].name }),
          numbers.length > 1 ? el('span', { class: 'count', text: String(numbers.length) }) : null)));
      }
      addMore(found, list, sorted.length - from - CARDS, () => more(from + CARDS));
    };
    more(0);
  }
}

function addMore(found, after, left, more) {
  if (left <= 0) return;
  const button = el('button', { type: 'button', class: 'icon controls', text: `${left.toLocaleString('en')} more`,
    on: { click: () => { button.remove(); more(); } } });
  after.after(button);
}

function toItem(number) {
  const at = marks.findIndex((found) => found.items.includes(number) && !found.also);
  if (at >= 0) toMention(at, false);
}

function showCards(found, one, items, from) {
  for (const { item, number } of items.slice(from, from + CARDS)) found.append(card(one, item, number));
  if (items.length > from + CARDS) addMore(found, found.lastChild, items.length - from - CARDS, () => showCards(found, one, items, from + CARDS));
}

function card(one, item, number) {
  const type = typeOf(item);
  const made = el('article', { class: `card ${colourClass(type)}`, 'data-item': number,
    on: { pointerenter: () => light([number]), pointerleave: () => light([]) } },
    el('header', {}, el('bdi', { class: 'kind', text: type }),
      item.page ? el('span', { text: `page ${item.page}` }) : null,
      typeof item.score === 'number' ? el('span', { title: 'score', text: item.score.toFixed(2) }) : null));
  const parts = partsOf(item, one.task);
  const button = (part, role) => el('button', { type: 'button', class: 'link', dir: 'auto', text: part.text,
    disabled: !one.text || typeof part.start !== 'number',
    title: typeof part.start === 'number' ? `${part.start}–${part.end}` : null,
    on: { click: () => toPart(number, role, part) } });
  if (!one.task.slots && parts.length === 2) {
    made.append(el('p', { class: 'pair' }, button(parts[0][1], parts[0][0]), el('span', { class: 'arrow', text: '→' }), button(parts[1][1], parts[1][0])));
  } else {
    const list = el('dl', { class: 'parts' });
    for (const [role, part] of parts) list.append(el('dt', {}, el('bdi', { text: role })), el('dd', {}, button(part, role)));
    if (parts.length) made.append(list);
  }
  return made;
}

function toPart(number, role, part) {
  const at = marks.findIndex((found) => found.items.includes(number) && found.role === role && found.from === part.start && !found.also);
  if (at >= 0) toMention(at, false);
}

// ----------------------------------------------------------------------------------- the summary

const several = new Set(entries.filter((entry) => entry.unit).map((entry) => entry.unit)).size > 1;
const COLUMNS = [
  ['type', 'Type', 'kind', (a, b) => compare(a.entry.type, b.entry.type)],
  ...(several ? [['unit', 'What', 'unit', (a, b) => compare(a.entry.unit, b.entry.unit)]] : []),
  ['name', 'Name', 'what', (a, b) => compare(a.entry.name, b.entry.name)],
  ['count', 'Count', 'number', (a, b) => b.count - a.count],
  ['documents', 'Documents', 'number', (a, b) => b.documents - a.documents],
  ...(entries.some((entry) => entry.names?.length)
    ? [['others', 'Also written', 'others', (a, b) => b.entry.names.length - a.entry.names.length]] : []),
];
const collator = new Intl.Collator(undefined, { numeric: true });
const compare = (a, b) => collator.compare(a, b);
const order = { by: 'count', reverse: false };
let rows = [];

function countRows() {
  const found = new Map();
  documents.forEach((one, number) => {
    one.items.forEach((item, place) => {
      if (!passes(item)) return;
      for (const group of one.groups[place] || []) {
        const at = root(group);
        const row = found.get(at) || { at, entry: entries[at], count: 0, documents: 0, last: -1 };
        row.count += 1;
        if (row.last !== number) { row.documents += 1; row.last = number; }
        found.set(at, row);
      }
    });
  });
  const words = $('search').value.trim().toLowerCase();
  const column = COLUMNS.find(([name]) => name === order.by);
  rows = [...found.values()].filter((row) => !words || [row.entry.name, row.entry.type, ...row.entry.names].some((name) => name.toLowerCase().includes(words)));
  rows.sort((a, b) => (order.reverse ? -1 : 1) * column[3](a, b) || b.count - a.count || compare(a.entry.name, b.entry.name));
}

function showTable() {
  countRows();
  for (const head of $('summary-head').children) {
    const name = head.dataset.name;
    const down = (name === 'count' || name === 'documents' || name === 'others') !== order.reverse;
    if (name === order.by) head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    else head.removeAttribute('aria-sort');
  }
  $('rows-shown').textContent = plural(rows.length, 'name');
  showRows();
}

function showRows(all) {
  const scroll = $('scroll');
  const body = $('summary-body');
  const first = all ? 0 : Math.max(0, Math.floor(scroll.scrollTop / TABLE_ROW) - 12);
  const last = all ? rows.length : Math.min(rows.length, Math.ceil((scroll.scrollTop + (scroll.clientHeight || 800)) / TABLE_ROW) + 12);
  $('summary-table').setAttribute('aria-rowcount', String(rows.length + 1));
  const pad = (count) => {
    const cell = el('td', {});
    cell.style.height = `${count * TABLE_ROW}px`;
    return el('tr', { class: 'pad', 'aria-hidden': 'true' }, cell);
  };
  body.replaceChildren(
    ...(first ? [pad(first)] : []),
    ...rows.slice(first, last).map((row, number) => rowOf(row, first + number)),
    ...(last < rows.length ? [pad(rows.length - last)] : []));
}

function rowOf(row, number) {
  const { entry } = row;
  const cells = {
    type: () => [el('span', { class: `swatch ${colourClass(entry.type)}` }), el('bdi', { text: entry.label })],
    unit: () => [entry.unit],
    name: () => [el('button', { type: 'button', class: 'link', dir: 'auto', title: entry.name, text: entry.name, on: { click: () => {
      show('read');
      setEntity(row.at);
      $('find').focus();
    } } })],
    count: () => [row.count.toLocaleString('en')],
    documents: () => [row.documents.toLocaleString('en')],
    others: () => [el('bdi', { dir: 'auto', class: 'soft', title: entry.names.join('\n'), text: entry.names.slice(0, 20).join(' · ') })],
  };
  return el('tr', { 'aria-rowindex': number + 2 }, ...COLUMNS.map(([name, , kind]) => el('td', { class: kind }, ...cells[name]())));
}

function makeTable() {
  for (const [name, title, kind] of COLUMNS) {
    $('summary-head').append(el('th', { scope: 'col', class: kind, 'data-name': name },
      el('button', { type: 'button', text: title, on: { click: () => {
        order.reverse = order.by === name && !order.reverse;
        order.by = name;
        $('scroll').scrollTop = 0;
        showTable();
      } } })));
  }
  let waiting = 0;
  const again = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => showRows()); };
  $('scroll').addEventListener('scroll', again, { passive: true });
  new ResizeObserver(() => { if (state.view === 'table') again(); }).observe($('scroll'));
  let typing = 0;
  $('search').addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => { $('scroll').scrollTop = 0; showTable(); }, 120);
  });
}

// ------------------------------------------------------------------- views, keys, and beginning

function show(view) {
  state.view = view;
  for (const name of ['read', 'table']) {
    $(name).hidden = name !== view;
    const tab = $(`tab-${name}`);
    tab.setAttribute('aria-selected', String(name === view));
    tab.tabIndex = name === view ? 0 : -1;
  }
  hideTip();
  showTotals();
  if (view === 'table') showTable();
}

function makeKeys() {
  for (const name of ['read', 'table']) {
    $(`tab-${name}`).addEventListener('click', () => show(name));
    $(`tab-${name}`).addEventListener('keydown', (event) => {
      if (event.key !== 'ArrowRight' && event.key !== 'ArrowLeft') return;
      const other = name === 'read' ? 'table' : 'read';
      show(other);
      $(`tab-${other}`).focus();
      event.stopPropagation();
    });
  }
  const keys = {
    j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
    n: () => nextMention(1), p: () => nextMention(-1),
    '/': () => { if (state.view === 'read') openSide(true); $(state.view === 'read' ? 'find' : 'search').focus(); },
    d: () => show('read'), s: () => show('table'), '?': () => $('help').showModal(),
    t: () => { $('tags').checked = !$('tags').checked; showTags(); },
  };
  const reading = new Set(['j', 'k', 'ArrowDown', 'ArrowUp', 'n', 'p']);
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') escape(event);
    if (event.ctrlKey || event.metaKey || event.altKey || $('help').open) return;
    if (event.target.matches('input:not([type=checkbox])')) return;
    // Arrows scroll what has the focus and can be scrolled.
    if (event.key.startsWith('Arrow') && event.target !== document.body) return;
    const act = keys[event.key];
    if (!act || (reading.has(event.key) && state.view !== 'read')) return;
    event.preventDefault();
    act();
  });
  $('help-open').addEventListener('click', () => $('help').showModal());
  $('help-close').addEventListener('click', () => $('help').close());
  const text = $('text');
  text.addEventListener('pointerover', (event) => {
    const node = event.target.closest('.m');
    if (node) showTip(node); else hideTip();
  });
  text.addEventListener('pointerleave', hideTip);
  text.addEventListener('click', (event) => {
    const node = event.target.closest('.m');
    if (node) { state.mention = Number(node.dataset.m); showTip(node); }
  });
  $('main').addEventListener('scroll', () => { if (!$('tip').hidden && !text.querySelector('.here:focus')) hideTip(); }, { passive: true });
  addEventListener('beforeprint', () => { blocks.forEach(mark); if (state.view === 'table') showRows(true); });
  addEventListener('afterprint', () => { if (state.view === 'table') showRows(); });
}

function escape(event) {
  const field = event.target;
  if (field.matches('input[type=search]') && field.value) {
    field.value = '';
    field.dispatchEvent(new Event('input'));
  } else if ($('side').classList.contains('open')) { openSide(false); $('side-open').focus(); }
  else if (state.entity !== null && state.view === 'read') setEntity(null);
  hideTip();
}

makeFilters();
makeList();
makeTable();
makeKeys();
filtered();
document.documentElement.dataset.ready = 'yes';
})();

// Keeps the page as the operator has it: sections that changed are replaced, and what was opened stays open.
'use strict';
{
  const main = document.getElementById('fleet');
  const box = document.getElementById('filter');
  const found = document.getElementById('found');
  const live = document.getElementById('live');
  const all = (selector, within = main) => [...within.querySelectorAll(selector)];
  const last = new Map([...main.children].map((part) => [part.id, part.outerHTML]));
  // Groups that the filter opened or closed, as they were before.
  const before = new Map();

  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of all('.row')) {
      const text = `${row.dataset.state} ${(row.querySelector('summary') ?? row).textContent}`.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.classList.contains('guest') && !row.hidden;
    }
    for (const group of all('details.group')) {
      const rows = all('.row', group);
      const match = rows.some((row) => !row.hidden);
      group.classList.toggle('empty', words.length > 0 && rows.length > 0 && !match);
      if (words.length > 0) {
        if (!before.has(group.id)) before.set(group.id, group.open);
        group.open = match;
      } else if (before.has(group.id)) {
        group.open = before.get(group.id);
      }
    }
    if (words.length === 0) before.clear();
    found.textContent = words.length > 0 ? `${shown} of ${all('.guest').length} guests` : '';
  };

  const replace = (text) => {
    const open = new Map(all('details[id]').map((one) => [one.id, one.open]));
    const place = document.activeElement?.closest('details[id]')?.id;
    for (const part of [...new DOMParser().parseFromString(text, 'text/html').body.children]) {
      const html = part.outerHTML;
      if (last.get(part.id) === html) continue;
      last.set(part.id, html);
      document.getElementById(part.id).replaceWith(part);
    }
    for (const one of all('details[id]')) {
      if (open.has(one.id)) one.open = open.get(one.id);
    }
    filter();
    if (place && document.activeElement === document.body) {
      document.getElementById(place)?.querySelector('summary')?.focus({ preventScroll: true });
    }
  };

  let asked = false;
  let again = false;
  const renew = async () => {
    again = asked;
    if (asked) return;
    asked = true;
    try {
      const answer = await fetch('fragment');
      if (answer.ok) replace(await answer.text());
    } catch {
      // The connection is lost; its end is told by what listens for changes.
    }
    asked = false;
    if (again) renew();
  };

  const events = new EventSource(`events?seen=${main.dataset.digest}`);
  events.addEventListener('changed', renew);
  events.addEventListener('open', () => { live.textContent = 'live'; live.className = 'on'; });
  events.addEventListener('error', () => { live.textContent = 'not connected'; live.className = 'off'; });

  box.form.hidden = false;
  box.form.addEventListener('submit', (event) => event.preventDefault());
  box.addEventListener('input', filter);
  main.addEventListener('click', (event) => {
    const button = event.target.closest('button[data-filter]');
    if (!button) return;
    box.value = box.value === button.dataset.filter ? '' : button.dataset.filter;
    filter();
  });
  // What a mark of a strip says stands in the opened row.
  main.addEventListener('pointerover', ({ target }) => {
    const mark = target.closest('.guest .strip i:not([title])');
    if (!mark) return;
    const number = [...mark.parentElement.children].indexOf(mark);
    const told = all('.conditions > li', mark.closest('.guest'))[number];
    mark.title = [...told.children].map((part) => part.textContent).join(' · ');
  });
  document.addEventListener('keydown', (event) => {
    if (event.key === '/' && document.activeElement !== box && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      box.focus();
    }
    if (event.key === 'Escape' && document.activeElement === box) {
      box.value = '';
      filter();
    }
  });
}

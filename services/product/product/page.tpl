% off = ' disabled' if locked else ''
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{site_title}}</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Cpath fill='%230d7a78' d='M5 11h22l-3 17H8z'/%3E%3Cpath fill='none' stroke='%230d7a78' stroke-width='2.5' d='M6 11a10 9 0 0 1 20 0'/%3E%3C/svg%3E">
<style>{{!style}}</style>
<style>{{!ink_style}}</style>
</head>
<body class="{{layout}}" data-ink-light="{{ink_light}}" data-ink-dark="{{ink_dark}}">
<header id="top">
  <h1>{{site_title}}</h1>
  <p class="tagline">{{tagline}}</p>
</header>
<main>
  <div id="notice" aria-live="polite">
% if away:
    <p class="notice away"><strong>The shared list is out of reach.</strong>
%     if items is not None:
    This is the list as last seen, <time>{{as_of}}</time>. You can read it; changes cannot be saved until it is back.
%     else:
    There is no copy of it here yet. It will appear as soon as it is back.
%     end
    </p>
% end
% if locked:
    <p class="notice away" id="locked"><strong>The list is closed for changes.</strong>
    You can read it; adding, ticking off and deleting are switched off for the moment.</p>
% end
% if problem:
    <p class="notice problem">{{problem}}</p>
% end
% if deleted:
    <form class="notice" method="post" action="/items/{{deleted}}/restore">
      <span>Deleted.</span> <button id="undo" class="plain"{{!off}}>Undo</button>
    </form>
% end
  </div>

  <div id="picture">{{!picture}}</div>

  <form id="add" method="post" action="/items">
    <label for="title">What do you want to do?</label>
    <div class="line">
      <input type="hidden" name="key" value="{{key}}">
      <input id="title" name="title" value="{{typed}}" required maxlength="{{max_title}}" autocomplete="off"
        placeholder="Swim under a waterfall" enterkeyhint="done"{{!' readonly' if locked else ''}}>
      <button id="save" class="primary"{{!off}}>Add</button>
    </div>
  </form>

  <section id="list" aria-label="The list" data-mark="{{mark}}">
% if items:
    <div class="progress">
      <progress id="progress" max="{{len(items)}}" value="{{done}}" aria-labelledby="count"></progress>
      <span id="count">{{done}} of {{len(items)}} done</span>
    </div>
    <ul role="list">
%     for item in items:
%         if item.id == editing:
      <li id="item-{{item.id}}" class="editing">
        <form method="post" action="/items/{{item.id}}/edit">
          <input type="hidden" name="version" value="{{edit_version or item.version}}">
          <label class="hidden" for="text-{{item.id}}">New text for “{{item.title}}”</label>
          <input id="text-{{item.id}}" name="title" value="{{item.title if edit_text is None else edit_text}}" required
            maxlength="{{max_title}}" autocomplete="off" autofocus enterkeyhint="done">
          <button class="primary">Save</button>
          <a id="cancel" class="button" href="/">Cancel</a>
        </form>
      </li>
%         else:
      <li id="item-{{item.id}}"{{!' class="done"' if item.done else ''}}>
        <form method="post" action="/items/{{item.id}}/done">
          <input type="hidden" name="done" value="{{0 if item.done else 1}}">
          <button id="done-{{item.id}}" class="tick" role="checkbox" aria-checked="{{'true' if item.done else 'false'}}"
            aria-labelledby="name-{{item.id}}"{{!off}}><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M5 12.5l4.5 4.5L19 7.5"/></svg></button>
        </form>
        <span id="name-{{item.id}}" class="name" dir="auto">{{item.title}}</span>
%             if not locked:
        <a id="edit-{{item.id}}" class="small" href="/?edit={{item.id}}#item-{{item.id}}" aria-label="Edit {{item.title}}" title="Edit"><svg
          viewBox="0 0 24 24" aria-hidden="true"><path d="M4 20l1-4L16.5 4.5l3 3L8 19z M14 7l3 3"/></svg></a>
%             end
        <form method="post" action="/items/{{item.id}}/delete">
          <button id="delete-{{item.id}}" class="small" aria-label="Delete {{item.title}}" title="Delete"{{!off}}><svg
            viewBox="0 0 24 24" aria-hidden="true"><path d="M5 7h14 M10 7V4h4v3 M7 7l1 13h8l1-13 M10.5 11v5 M13.5 11v5"/></svg></button>
        </form>
      </li>
%         end
%     end
    </ul>
% elif items is not None:
    <div class="empty">
      <svg viewBox="0 0 120 96" aria-hidden="true">
        <path class="handle" d="M26 38a34 30 0 0 1 68 0"/>
        <path class="bucket" d="M20 38h80l-10 52H30z"/>
        <path class="wave" d="M24.5 58q9-7 17.500 0t17.500 0 17.500 0 18 0"/>
      </svg>
      <p>Nothing in the bucket yet.</p>
      <p class="quiet">What have you always wanted to do?</p>
    </div>
% end
  </section>
</main>
<footer id="served">
  Served by <b>{{instance}}</b> <span class="pool {{pool}}">{{pool}}</span> release <b>{{release}}</b>
</footer>
<script>{{!script}}</script>
</body>
</html>

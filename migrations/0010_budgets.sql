-- The read models of budgets, and of what is held against them.

create table budgets (
  tenant_id bigint not null,
  build integer not null,
  -- Whose it is: the organization or an end user.
  owner text collate "C" not null,
  -- organization or user
  scope text collate "C" not null,
  -- null for the organization's
  user_id text collate "C",
  -- In cents.
  amount bigint not null,
  -- day or month
  period text collate "C" not null,
  -- Percent, in rising order.
  thresholds json not null,
  -- block or notify
  action text collate "C" not null,
  -- Of the event that set it; the organization's stands above all. Listings are ordered by it.
  rank bigint not null,
  updated_at timestamptz not null,
  primary key (tenant_id, build, owner)
);
-- For listings, which state its condition (always true).
create index budgets_ranked on budgets (tenant_id, build, rank) where rank > 0;

-- What sessions, end users and the organization have spent each day, and what is held for their work.
create table spending (
  tenant_id bigint not null,
  build integer not null,
  -- Whose it is: a session, an end user or the organization.
  owner text collate "C" not null,
  -- A day in UTC such as 2025-05-01. What is held belongs to no day: it stands under the empty text.
  day text collate "C" not null,
  -- Settled and unconfirmed charges, in units of the currency, exact.
  spent numeric not null,
  -- The worst case of what is under way.
  reserved numeric not null,
  primary key (tenant_id, build, owner, day)
) with (fillfactor = 60); -- room for the next version of a row on its page

do $$
declare name text;
begin
  foreach name in array array['budgets', 'spending'] loop
    execute format('alter table %I enable row level security', name);
    execute format('alter table %I force row level security', name);
    execute format('create policy tenant_wall on %I using (tenant_id = current_tenant())', name);
    execute format('grant select, insert, update, delete on %I to theazo_serve', name);
  end loop;
end $$;

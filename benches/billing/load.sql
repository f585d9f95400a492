-- A log of {calls} calls to models, each of three charges, over the 90 days before now: its events (whose data no view
-- reads), who they are about, the ledger and its sums, as the folds would write them.
set session_replication_role = replica;
create temporary table bench as
  select tenant_id, position as head, last_at,
    date_trunc('second', now()) - interval '90 days' as began, interval '90 days' / {calls} as step
  from heads order by position desc limit 1;
update events set at = (select began from bench) where tenant_id = (select tenant_id from bench);

create temporary table calls as
  select b.tenant_id, b.head + i as position, date_trunc('milliseconds', b.began + b.step * i) as at,
    'usr_' || lpad(u::text, 26, '0') as user_id,
    'ses_' || lpad((u * 100 + extract(month from b.began + b.step * i))::int::text, 26, '0') as session_id,
    'agt_' || lpad(((u * 100 + extract(month from b.began + b.step * i)) * 2 + i % 2)::int::text, 26, '0') as agent_id,
    'model-' || i % 20 as model, i
  from bench b, lateral (select i, (i::bigint * 7919) % 1000 as u from generate_series(1, {calls}) i) s;

insert into end_users
  select distinct tenant_id, user_id, 'user-' || ltrim(substr(user_id, 5), '0') from calls on conflict do nothing;
insert into events (tenant_id, position, event_id, type, version, subjects, data, metadata, at, leaf_hash)
  select tenant_id, position, 'evt_' || lpad(position::text, 26, '0'), 'model.call_settled', 1,
    array[user_id, session_id, agent_id], '{}', '{}', at, decode(repeat('00', 32), 'hex')
  from calls;
insert into event_subjects
  select tenant_id, subject, position from calls, lateral unnest(array[user_id, session_id, agent_id]) subject
  order by subject, position;

insert into ledger (tenant_id, build, position, entry, at, late, line, category, user_id, session_id, agent_id, model,
    quantity, unit, price_amount, price_per, rate_card, cost, calls, unrated_calls)
  select c.tenant_id, live_build(c.tenant_id, 'ledger'), position, entry, at, 0, 'usage', 'model', user_id, session_id,
    agent_id, model, (i * (entry + 3)) % 5000 + 1, unit, price, 1000000, 'bench',
    round(((i * (entry + 3)) % 5000 + 1) * price / 1000000, 12), case when entry = 0 then 1 else 0 end, 0
  from calls c, (values (0, 'input_token', 3.3), (1, 'output_token', 16.5), (2, 'cache_read_token', 0.33))
    as u(entry, unit, price)
  order by position, entry;

create temporary table grains as
  select *, case unit when 'ten_days' then null else unit end as field
  from (values ('month'), ('ten_days'), ('day'), ('hour'), ('minute')) g(unit);
create function pg_temp.start_of(grain text, at timestamptz) returns timestamptz language sql immutable as $$
  select case grain when 'ten_days' then date_trunc('month', at, 'UTC')
      + least((extract(day from at at time zone 'UTC')::int - 1) / 10, 2) * interval '10 days'
    else date_trunc(grain, at, 'UTC') end $$;

insert into usage_totals
  select l.tenant_id, live_build(l.tenant_id, 'usage_totals'), g.unit, pg_temp.start_of(g.unit, l.at), category, model,
    sum(cost), 0, 0, count(*), sum(calls),
    coalesce(sum(quantity) filter (where l.unit = 'input_token'), 0),
    coalesce(sum(quantity) filter (where l.unit = 'output_token'), 0),
    coalesce(sum(quantity) filter (where l.unit = 'cache_read_token'), 0), 0, 0, 0, 0, 0, 0, 0, 0
  from ledger l, grains g where g.unit <> 'ten_days' group by 1, 2, 3, 4, 5, 6;
insert into usage_by_user
  select l.tenant_id, live_build(l.tenant_id, 'usage_by_user'), g.unit, pg_temp.start_of(g.unit, l.at), user_id,
    sum(cost), count(*), 0, 0
  from ledger l, grains g where g.unit in ('month', 'ten_days', 'day') group by 1, 2, 3, 4, 5;
insert into usage_by_agent
  select l.tenant_id, live_build(l.tenant_id, 'usage_by_agent'), g.unit, pg_temp.start_of(g.unit, l.at), user_id,
    session_id, agent_id, sum(cost), count(*), 0, 0
  from ledger l, grains g where g.unit <> 'ten_days' group by 1, 2, 3, 4, 5, 6, 7;

update heads h set position = c.position, last_at = c.at
  from (select tenant_id, position, at from calls order by position desc limit 1) c where h.tenant_id = c.tenant_id;
drop table calls;
set session_replication_role = origin;


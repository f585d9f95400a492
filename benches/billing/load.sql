-- A log of {charges} charges over the 90 days before now: its events (whose data no view reads), who they are about,
-- the ledger and its sums, as the folds would write them. Ten charges come of four events: three calls to models, of
-- three charges each, and a piece of compute. One piece in a hundred is a correction instead, and one in 250 counts in
-- the day before its event.
set session_replication_role = replica;
set synchronous_commit = off;
set work_mem = '512MB';
set jit = off;

-- The organization of the bench is the newest.
create temporary table bench as
  select t.tenant_id, h.position as head, date_trunc('second', now()) - interval '90 days' as began,
    interval '90 days' / ({charges} / 10 * 4) as step, live_build(t.tenant_id, 'ledger') as ledger,
    live_build(t.tenant_id, 'usage_totals') as totals, live_build(t.tenant_id, 'usage_by_user') as by_user,
    live_build(t.tenant_id, 'usage_by_agent') as by_agent, live_build(t.tenant_id, 'sessions') as listing
  from tenants t join heads h using (tenant_id) where t.mode = 'live' order by t.tenant_id desc limit 1;
update events e set at = b.began from bench b where e.tenant_id = b.tenant_id;
delete from ledger l using bench b where l.tenant_id = b.tenant_id;

create temporary table happened as
  select b.tenant_id, b.head + i as position, i, at, 'usr_' || lpad(u::text, 26, '0') as user_id,
    'ses_' || lpad(s::text, 26, '0') as session_id, 'agt_' || lpad((s * 2 + i / 4 % 2)::text, 26, '0') as agent_id,
    'model-' || u % 20 as model,
    case when i % 4 <> 0 then 'call' when i % 400 = 0 then 'correction' else 'compute' end as kind
  from bench b cross join generate_series(1, {charges} / 10 * 4) i
    cross join lateral (select (i::bigint * 7919 + i / 4 * 31) % 1000 as u,
      date_trunc('milliseconds', b.began + b.step * i) as at) of
    cross join lateral (select u * 100 + extract(month from at at time zone 'UTC')::bigint as s) its;

insert into end_users
  select distinct tenant_id, user_id, 'user-' || ltrim(substr(user_id, 5), '0') from happened on conflict do nothing;
insert into events (tenant_id, position, event_id, type, version, subjects, data, metadata, at, leaf_hash)
  select tenant_id, position, 'evt_' || lpad(position::text, 26, '0'), 'bench.' || kind, 1,
    array[user_id, session_id, agent_id], '{}', '{}', at, decode(repeat('00', 32), 'hex')
  from happened;
insert into event_subjects
  select tenant_id, subject, position from happened, lateral unnest(array[user_id, session_id, agent_id]) subject
  order by subject collate "C", position;

insert into ledger (tenant_id, build, position, entry, at, late, line, category, user_id, session_id, agent_id, model,
    quantity, unit, price_amount, price_per, rate_card, cost, calls, unrated_calls)
  select h.tenant_id, b.ledger, h.position, u.entry,
    case when late = 1 then date_trunc('day', h.at, 'UTC') - interval '1 millisecond' else h.at end, late, 'usage',
    u.category, h.user_id, h.session_id, h.agent_id, case u.category when 'model' then h.model end, q.quantity, u.unit,
    u.price, u.per, 'bench', round(q.quantity * u.price / u.per, 12), case u.unit when 'input_token' then 1 else 0 end, 0
  from bench b, happened h
    cross join lateral (values
      ('call', 0, 'model', 'input_token', 3.3, 1000000), ('call', 1, 'model', 'output_token', 16.5, 1000000),
      ('call', 2, 'model', 'cache_read_token', 0.33, 1000000), ('compute', 0, 'compute', 'millisecond', 0.005, 60000)
    ) as u(kind, entry, category, unit, price, per)
    cross join lateral (select (h.i::bigint * (u.entry + 3)) % 5000 + 1 as quantity,
      case when u.kind = 'compute' and h.i % 1000 = 4 and h.at > b.began + interval '2 days' then 1 else 0 end as late) q
  where u.kind = h.kind;
insert into ledger (tenant_id, build, position, entry, at, late, line, category, user_id, session_id, agent_id, model,
    quantity, unit, rate_card, cost, corrects_position, corrects_entry, calls, unrated_calls)
  select h.tenant_id, b.ledger, h.position, 0, h.at, 0, 'adjustment', 'model', h.user_id, h.session_id, h.agent_id,
    h.model, 0, 'input_token', 'bench', -0.000001, h.position - 1, 0, 0, 0
  from bench b, happened h where h.kind = 'correction';
-- Each session and each agent is created by the first event that is about it.
insert into sessions (tenant_id, build, session_id, user_id, status, position, created_at, updated_at)
  select distinct on (h.session_id) h.tenant_id, b.listing, h.session_id, h.user_id, 'active', h.position, h.at, h.at
  from bench b, happened h order by h.session_id, h.position;
insert into ledger (tenant_id, build, position, entry, at, late, line, user_id, session_id, agent_id, cost, calls,
    unrated_calls)
  select distinct on (h.agent_id) h.tenant_id, b.ledger, h.position, 11, h.at, 0, 'agent', h.user_id, h.session_id,
    h.agent_id, 0, 0, 0
  from bench b, happened h order by h.agent_id, h.position;

-- The sums of minutes are those of lines; the sums of what is longer are those of what is shorter.
insert into usage_totals
  select l.tenant_id, b.totals, 'minute', date_trunc('minute', at, 'UTC'), coalesce(category, ''), coalesce(model, ''),
    sum(cost), 0, 0, count(category), sum(calls),
    coalesce(sum(quantity) filter (where unit = 'input_token'), 0),
    coalesce(sum(quantity) filter (where unit = 'output_token'), 0),
    coalesce(sum(quantity) filter (where unit = 'cache_read_token'), 0), 0,
    coalesce(sum(quantity) filter (where unit = 'millisecond'), 0), 0, 0, 0, 0,
    0, count(*) filter (where line = 'agent')
  from bench b join ledger l on l.tenant_id = b.tenant_id and l.build = b.ledger group by 1, 2, 3, 4, 5, 6;
insert into usage_totals
  select s.tenant_id, b.totals, 'minute', date_trunc('minute', created_at, 'UTC'), '', '', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, count(*), 0
  from bench b join sessions s on s.tenant_id = b.tenant_id and s.build = b.listing group by 1, 2, 3, 4
  on conflict (tenant_id, build, grain, start, category, model) do update set sessions = excluded.sessions;
insert into usage_by_agent (tenant_id, build, grain, start, user_id, session_id, agent_id, cost, entries, agents)
  select l.tenant_id, b.by_agent, 'minute', date_trunc('minute', at, 'UTC'), user_id, session_id,
    agent_id, sum(cost), count(category), count(*) filter (where line = 'agent')
  from bench b join ledger l on l.tenant_id = b.tenant_id and l.build = b.ledger group by 1, 2, 3, 4, 5, 6, 7;
do $$
declare pair text[];
begin
  foreach pair slice 1 in array array[['minute', 'hour'], ['hour', 'day'], ['day', 'month']] loop
    insert into usage_totals
      select t.tenant_id, build, pair[2], date_trunc(pair[2], start, 'UTC'), category, model, sum(cost), 0, 0,
        sum(entries), sum(calls), sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), 0, sum(compute_ms), 0, 0,
        0, 0, sum(sessions), sum(agents)
      from usage_totals t join bench b on b.tenant_id = t.tenant_id and b.totals = t.build
      where grain = pair[1] group by 1, 2, 3, 4, 5, 6;
    insert into usage_by_agent (tenant_id, build, grain, start, user_id, session_id, agent_id, cost, entries, agents)
      select t.tenant_id, build, pair[2], date_trunc(pair[2], start, 'UTC'), user_id, session_id, agent_id, sum(cost),
        sum(entries), sum(agents)
      from usage_by_agent t join bench b on b.tenant_id = t.tenant_id and b.by_agent = t.build
      where grain = pair[1] group by 1, 2, 3, 4, 5, 6, 7;
  end loop;
end $$;
create function pg_temp.start_of(grain text, at timestamptz) returns timestamptz language sql immutable as $$
  select case grain when 'ten_days' then date_trunc('month', at, 'UTC')
      + least((extract(day from at at time zone 'UTC')::int - 1) / 10, 2) * interval '10 days'
    else date_trunc(grain, at, 'UTC') end $$;
insert into usage_by_agent (tenant_id, build, grain, start, user_id, session_id, agent_id, cost, entries, agents)
  select t.tenant_id, build, 'ten_days', pg_temp.start_of('ten_days', start), user_id, session_id, agent_id, sum(cost),
    sum(entries), sum(agents)
  from usage_by_agent t join bench b on b.tenant_id = t.tenant_id and b.by_agent = t.build
  where grain = 'day' group by 1, 2, 3, 4, 5, 6, 7;
insert into usage_by_user
  select t.tenant_id, b.by_user, g.grain, pg_temp.start_of(g.grain, start), user_id, sum(cost), sum(entries),
    0, sum(agents)
  from bench b join usage_by_agent t on t.tenant_id = b.tenant_id and t.build = b.by_agent and t.grain = 'day'
    cross join (values ('month'), ('ten_days'), ('day')) g(grain)
  group by 1, 2, 3, 4, 5;
insert into usage_by_user
  select s.tenant_id, b.by_user, g.grain, pg_temp.start_of(g.grain, s.created_at), user_id, 0, 0, count(*), 0
  from bench b join sessions s on s.tenant_id = b.tenant_id and s.build = b.listing
    cross join (values ('month'), ('ten_days'), ('day')) g(grain)
  group by 1, 2, 3, 4, 5
  on conflict (tenant_id, build, grain, start, user_id) do update set sessions = excluded.sessions;

update heads h set position = e.position, last_at = e.at
  from (select tenant_id, position, at from happened order by i desc limit 1) e where h.tenant_id = e.tenant_id;
drop table happened, bench;
reset all;

-- The oldest request in the window, by the first entry of the index: behind the wall between tenants `min` reads all that
-- the window holds.
create or replace function rate_admit(key text, wanted integer, allowed integer, clock_ms bigint)
  returns table (admitted integer, used_before integer, oldest_ms bigint, now_ms bigint)
  language plpgsql as $$
declare
  tenant bigint := current_tenant();
  spent integer;
  expired integer;
  last bigint;
begin
  insert into rate_windows values (tenant, key, 0, 0) on conflict do nothing;
  select w.used, w.last_ms into spent, last from rate_windows w
    where w.tenant_id = tenant and w.key_id = key for update;
  now_ms := greatest(last, coalesce(clock_ms, floor(extract(epoch from clock_timestamp()) * 1000)::bigint));
  with gone as (
    delete from rate_hits h where h.tenant_id = tenant and h.key_id = key and h.at_ms <= now_ms - 60000
    returning h.hits
  ) select coalesce(sum(hits), 0) into expired from gone;
  used_before := spent - expired;
  admitted := greatest(0, least(wanted, allowed - used_before));
  if admitted > 0 then
    insert into rate_hits as h values (tenant, key, now_ms, admitted)
      on conflict (tenant_id, key_id, at_ms) do update set hits = h.hits + excluded.hits;
  end if;
  update rate_windows w set used = used_before + admitted, last_ms = now_ms
    where w.tenant_id = tenant and w.key_id = key;
  select h.at_ms into oldest_ms from rate_hits h where h.tenant_id = tenant and h.key_id = key
    order by h.at_ms limit 1;
  return next;
end $$;

-- Work that was done leaves entries in the index of what is due. A scan of the index in its order clears those that it meets
-- out of the way of the next; one by a bitmap meets all of them again, thousands between two vacuums.
create or replace function claim_work(server text, most integer, lease_ms integer, at timestamptz)
  returns table (tenant_id bigint, kind text, subject text)
  language plpgsql security definer set search_path = public, pg_temp
  set enable_bitmapscan = off set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  moment timestamptz := coalesce(at, clock_timestamp());
begin
  return query
    with due as (
      select w.tenant_id, w.kind, w.subject from work w
      left join leases l on l.tenant_id = w.tenant_id and l.kind = w.kind and l.subject = w.subject
      where w.due_at <= moment and (l.expires_at is null or l.expires_at <= moment)
        and w.build = (select b.build from projection_builds b
          where b.tenant_id = w.tenant_id and b.projection = 'work' and b.state = 'live')
      order by w.due_at limit most
    ), taken as (
      insert into leases as l (tenant_id, kind, subject, worker, expires_at)
      select d.tenant_id, d.kind, d.subject, server, moment + make_interval(secs => lease_ms / 1000.0) from due d
      on conflict (tenant_id, kind, subject) do update
        set worker = excluded.worker, expires_at = excluded.expires_at
        where l.expires_at <= moment
      returning l.tenant_id, l.kind, l.subject
    ) select t.tenant_id, t.kind, t.subject from taken t;
end $$;

-- In plpgsql, which keeps its plan for as long as the connection lives.
create or replace function release_lease(server text, tenant bigint, what text, about text) returns void
  language plpgsql security definer set search_path = public, pg_temp as $$
begin
  delete from leases l where l.tenant_id = tenant and l.kind = what and l.subject = about and l.worker = server;
end $$;

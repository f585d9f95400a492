-- Takes work that is due for a server, so many pieces of what can take long (a run, a sandbox to be made), and so many of
-- what keeps count of money, which must not wait behind the former. claim_work stays for servers of the version before.
create function claim_due_work(server text, most integer, counting text[], most_counting integer, lease_ms integer,
    at timestamptz)
  returns table (tenant_id bigint, kind text, subject text)
  language plpgsql security definer set search_path = public, pg_temp
  set enable_bitmapscan = off set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  moment timestamptz := coalesce(at, clock_timestamp());
begin
  return query
    with due as (
      (select w.tenant_id, w.kind, w.subject from work w
       left join leases l on l.tenant_id = w.tenant_id and l.kind = w.kind and l.subject = w.subject
       where w.due_at <= moment and (l.expires_at is null or l.expires_at <= moment) and w.kind <> all (counting)
         and w.build = (select b.build from projection_builds b
           where b.tenant_id = w.tenant_id and b.projection = 'work' and b.state = 'live')
       order by w.due_at limit most)
      union all
      (select w.tenant_id, w.kind, w.subject from work w
       left join leases l on l.tenant_id = w.tenant_id and l.kind = w.kind and l.subject = w.subject
       where w.due_at <= moment and (l.expires_at is null or l.expires_at <= moment) and w.kind = any (counting)
         and w.build = (select b.build from projection_builds b
           where b.tenant_id = w.tenant_id and b.projection = 'work' and b.state = 'live')
       order by w.due_at limit most_counting)
    ), taken as (
      insert into leases as l (tenant_id, kind, subject, worker, expires_at)
      select d.tenant_id, d.kind, d.subject, server, moment + make_interval(secs => lease_ms / 1000.0) from due d
      on conflict (tenant_id, kind, subject) do update
        set worker = excluded.worker, expires_at = excluded.expires_at
        where l.expires_at <= moment
      returning l.tenant_id, l.kind, l.subject
    ) select t.tenant_id, t.kind, t.subject from taken t;
end $$;

grant create on schema public to theazo_lookup;
alter function claim_due_work(text, integer, text[], integer, integer, timestamptz) owner to theazo_lookup;
revoke all on function claim_due_work(text, integer, text[], integer, integer, timestamptz) from public;
grant execute on function claim_due_work(text, integer, text[], integer, integer, timestamptz) to theazo_serve;
revoke create on schema public from theazo_lookup;

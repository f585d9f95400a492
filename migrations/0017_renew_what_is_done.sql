-- A server says that it is still at these pieces of work, and at nothing else: what it was given and never learned of, and
-- what it could not let go of, runs out. renew_leases stays for servers of the version before.
create function renew_held_leases(server text, tenants bigint[], kinds text[], subjects text[], lease_ms integer,
    at timestamptz)
  returns integer language plpgsql security definer set search_path = public, pg_temp
  set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off as $$
declare
  moment timestamptz := coalesce(at, clock_timestamp());
  renewed integer;
begin
  update leases l set expires_at = moment + make_interval(secs => lease_ms / 1000.0)
    from unnest(tenants, kinds, subjects) as held(tenant_id, kind, subject)
    where l.tenant_id = held.tenant_id and l.kind = held.kind and l.subject = held.subject
      and l.worker = server and l.expires_at > moment;
  get diagnostics renewed = row_count;
  return renewed;
end $$;

grant create on schema public to theazo_lookup;
alter function renew_held_leases(text, bigint[], text[], text[], integer, timestamptz) owner to theazo_lookup;
revoke all on function renew_held_leases(text, bigint[], text[], text[], integer, timestamptz) from public;
grant execute on function renew_held_leases(text, bigint[], text[], text[], integer, timestamptz) to theazo_serve;
revoke create on schema public from theazo_lookup;

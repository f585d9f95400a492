-- A server says that it is already at a piece of work that others may take as soon as it is due: a caller's program, which
-- whoever is asked to run it runs at once. False where another has taken it.
create function hold_work(server text, tenant bigint, what text, about text, lease_ms integer, at timestamptz)
  returns boolean language plpgsql security definer set search_path = public, pg_temp as $$
declare
  moment timestamptz := coalesce(at, clock_timestamp());
begin
  insert into leases as l (tenant_id, kind, subject, worker, expires_at)
    values (tenant, what, about, server, moment + make_interval(secs => lease_ms / 1000.0))
    on conflict (tenant_id, kind, subject) do nothing;
  return found;
end $$;

grant create on schema public to theazo_lookup;
alter function hold_work(text, bigint, text, text, integer, timestamptz) owner to theazo_lookup;
revoke all on function hold_work(text, bigint, text, text, integer, timestamptz) from public;
grant execute on function hold_work(text, bigint, text, text, integer, timestamptz) to theazo_serve;
revoke create on schema public from theazo_lookup;

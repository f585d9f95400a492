-- Names the tenant of the transaction, moves the head of its log and holds that lock until the transaction ends, if the log
-- still ends where the caller thinks it does, under the same read models. Else nothing of the transaction may be done: what
-- it writes was decided on a state that is not the log's. A statement that writes a batch calls it before anything else.
-- append_events stays for servers of the version before.
create function move_head(tenant bigint, from_position bigint, epoch integer, revision bigint, to_position bigint,
    moment timestamptz, new_frontier bytea, new_root bytea) returns void language plpgsql as $$
begin
  perform set_config('theazo.tenant', tenant::text, true);
  update heads h set position = to_position, last_at = moment, frontier = new_frontier, root = new_root
    where h.tenant_id = tenant and h.position = from_position and h.projection_epoch = epoch
      and h.builds_revision = revision;
  if not found then
    raise exception 'the log has moved' using errcode = 'TH001';
  end if;
end $$;

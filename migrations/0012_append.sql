-- Appends events in one call: names the tenant of the transaction, moves the head of the log and holds its lock until
-- the transaction ends, and writes the events, who they are about, and the end users who are new. It does so only if the
-- log still ends where the caller thinks it does, under the same read models; else nothing of the transaction may be
-- done, since what it writes was decided on a state that is not the log's.
create function append_events(
    tenant bigint, from_position bigint, epoch integer, revision bigint,
    to_position bigint, moment timestamptz, new_frontier bytea, new_root bytea,
    event_ids text[], types text[], versions smallint[], about_lists text[], datas text[], metadatas text[],
    times timestamptz[], leaf_hashes bytea[], subjects text[], subject_positions bigint[],
    user_ids text[], external_ids text[]
  ) returns void language plpgsql as $$
begin
  perform set_config('theazo.tenant', tenant::text, true);
  update heads h set position = to_position, last_at = moment, frontier = new_frontier, root = new_root
    where h.tenant_id = tenant and h.position = from_position and h.projection_epoch = epoch
      and h.builds_revision = revision;
  if not found then
    raise exception 'the log has moved' using errcode = 'TH001';
  end if;
  insert into events (tenant_id, position, event_id, type, version, subjects, data, metadata, at, leaf_hash)
    select tenant, from_position + u.number, u.event_id, u.type, u.version, u.about::text[], u.data::json,
           u.metadata::json, u.at, u.leaf_hash
    from unnest(event_ids, types, versions, about_lists, datas, metadatas, times, leaf_hashes) with ordinality
      as u(event_id, type, version, about, data, metadata, at, leaf_hash, number);
  insert into event_subjects (tenant_id, subject, position)
    select tenant, u.subject, u.position from unnest(subjects, subject_positions) as u(subject, position);
  insert into end_users (tenant_id, user_id, external_id)
    select tenant, u.user_id, u.external_id from unnest(user_ids, external_ids) as u(user_id, external_id);
end $$;

-- Where the log of a tenant ends, and which of these end users it has there: one row at least. Both are seen at the same
-- moment, without a lock. It names the tenant for the transaction.
create function look_for_people(tenant bigint, external_ids text[])
  returns table (ends_at bigint, external_id text, user_id text) language plpgsql as $$
begin
  perform set_config('theazo.tenant', tenant::text, true);
  return query
    select h.position, u.external_id, u.user_id from heads h left join lateral (
      select p.external_id, p.user_id from unnest(external_ids) as w(external_id) cross join lateral (
        select e.external_id, e.user_id from end_users e
        where e.tenant_id = tenant and e.external_id = w.external_id offset 0) p) u on true
    where h.tenant_id = tenant;
end $$;

drop function move_head(bigint, bigint, integer, bigint, bigint, timestamptz, bytea, bytea);

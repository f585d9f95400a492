-- The read models of organizations and their API keys.

create table organization (
  tenant_id bigint not null,
  build integer not null,
  organization_id text collate "C" not null,
  name text not null,
  mode text not null,
  plan text not null,
  -- Requests a minute for each key.
  rate_limit bigint not null,
  created_at timestamptz not null,
  primary key (tenant_id, build, organization_id)
);

create table api_keys (
  tenant_id bigint not null,
  build integer not null,
  key_id text collate "C" not null,
  -- HMAC-SHA-256 of the secret under the server's pepper, in hex.
  digest text collate "C" not null,
  role text not null,
  last_four text not null,
  position bigint not null,
  created_at timestamptz not null,
  revoked_at timestamptz,
  primary key (tenant_id, build, key_id)
);
create index api_keys_by_digest on api_keys (digest);

do $$
declare name text;
begin
  foreach name in array array['organization', 'api_keys'] loop
    execute format('alter table %I enable row level security', name);
    execute format('alter table %I force row level security', name);
    execute format('create policy tenant_wall on %I using (tenant_id = current_tenant())', name);
    execute format('grant select, insert, update, delete on %I to theazo_serve', name);
  end loop;
end $$;

-- Which tenant a key is of. It runs before a tenant is known, so it looks over the wall, as a role that may read
-- these columns and nothing else, and tells no more than the tenant and the key's id.
create policy lookup on api_keys for select to theazo_lookup using (true);
create policy lookup on projection_builds for select to theazo_lookup using (true);
grant select (tenant_id, build, key_id, digest) on api_keys to theazo_lookup;
grant select on projection_builds to theazo_lookup;

create function find_key(wanted_digest text) returns table (tenant_id bigint, key_id text)
  language sql stable security definer set search_path = public, pg_temp
  as $$ select k.tenant_id, k.key_id from api_keys k
        where k.digest = wanted_digest and k.build = live_build(k.tenant_id, 'api_keys') limit 1 $$;
grant create on schema public to theazo_lookup;
alter function find_key(text) owner to theazo_lookup;
revoke create on schema public from theazo_lookup;
revoke all on function find_key(text) from public;
grant execute on function find_key(text) to theazo_serve;

-- Usage without a price is rare, and every list tells how much of it there is.
create index usage_totals_unrated on usage_totals (tenant_id, build, grain, start)
  where unrated_calls <> 0 or unrated_input_tokens <> 0 or unrated_output_tokens <> 0;

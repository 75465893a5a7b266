"""What `otdrg prepare` does: a download or a folder of studies becomes Parquet shards in the one schema."""

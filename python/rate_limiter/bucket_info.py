"""The return value of `inspect`."""

from rate_limiter.stores.bucket_info import BucketInfo

__all__ = ["BucketInfo"]

"""Small applications that show the limiter at work; each folder is one."""

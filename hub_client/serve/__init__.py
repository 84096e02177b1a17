"""The self-hosted hub: the wire format of the Hugging Face hub over the folder hub's storage.

::

    <root>/<models|datasets>/<owner>/<name>.git              see hub_client.store.folder.folder_store
    <root>/<models|datasets>/<owner>/<name>.git/archzoo/     who may see it, its discussions and pull requests
    <root>/.serve/                                           tokens (hashed), the key of upload links, the audit log

A folder hub becomes a served hub by serving it, and stays a folder hub: both may write to it at the same time.
"""

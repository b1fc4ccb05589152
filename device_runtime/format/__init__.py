"""Every format of edgepack: bytes to frozen records and back.

Nothing here opens a file, holds a key or asks a clock.

To change a format:
1. raise its version constant and write the new bytes down in docs/FORMAT-*.md;
2. keep the old reader: golden files of every version are read for ever;
3. add a golden file of the new version to bundles/golden/;
4. say in CHANGELOG.md under "File formats" what changed and why.
"""

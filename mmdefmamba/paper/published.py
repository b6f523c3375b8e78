"""The rows of the paper's tables of results: what it prints of the methods that DefMamba is compared with.

Each line: method, parameters, FLOPs, scores; '-' where the paper prints none. `= arch` stands where DefMamba's own row
is, see :mod:`.tables`. Source: DefMamba, tables 1, 2, 3, B2 and C3, which give the other works as their sources.
"""

_TABLES = {
    '1': """
        RegNetY-800M | 6M | 0.8G | 76.3
        GhostNet 1.3 | 7M | 0.2G | 75.7
        DeiT-Ti | 6M | 1.3G | 72.2
        ViM-T | 7M | 1.5G | 76.1
        EffVMamba-T | 6M | 0.8G | 76.5
        LocalVim-T | 8M | 1.5G | 76.2
        PlainMamba-L1 | 7M | 3.0G | 77.9
        MSVMamba-N | 7M | 0.9G | 77.3
        QuadMamba-Li | 5M | 0.8G | 74.2
        = tiny
        RegNetY-4G | 21M | 4.0G | 80.0
        ConvNeXt-T | 29M | 4.5G | 82.1
        Conv2Former-T | 27M | 4.4G | 83.2
        DeiT-S | 22M | 4.6G | 79.8
        Swin-T | 29M | 4.5G | 81.3
        CoAtNet-0 | 25M | 4.0G | 81.6
        CrossFormer-S | 31M | 4.9G | 82.5
        ViM-S | 26M | 5.1G | 81.0
        VMamba-T | 22M | 5.6G | 82.2
        LocalVim-S | 28M | 4.8G | 81.2
        LocalVMamba-T | 26M | 5.7G | 82.7
        EffVMamba-B | 33M | 4.6G | 83.0
        MSVMamba-T | 33M | 4.6G | 82.8
        PlainMamba-L2 | 25M | 8.1G | 81.6
        GrootV-T | 30M | 4.8G | 83.4
        QuadMamba-S | 31M | 5.5G | 82.4
        = small
        ConvNeXt-S | 50M | 8.7G | 83.1
        Conv2Former | 50M | 8.7G | 84.1
        Swin-S | 50M | 8.7G | 83.0
        CoAtNet-1 | 42M | 8.0G | 83.3
        CrossFormer-B | 52M | 9.2G | 83.4
        VMamba-S | 50M | 8.7G | 83.6
        LocalVMamba-B | 50M | 11.4G | 83.7
        PlainMamba-L3 | 50M | 14.4G | 82.3
        GrootV-S | 51M | 8.5G | 84.2
        QuadMamba-B | 50M | 9.3G | 83.8
        = base
    """,
    '2': """
        ResNet-50 | - | 260G | 38.2 | 58.8 | 41.4 | 34.7 | 55.7 | 37.2
        Swin-T | - | 267G | 42.7 | 65.2 | 46.8 | 39.3 | 62.2 | 42.2
        ConvNeXt-T | - | 262G | 44.2 | 66.6 | 48.3 | 40.1 | 63.3 | 42.8
        PVTv2-B2 | - | 309G | 45.3 | 67.1 | 49.4 | 41.2 | 64.2 | 44.4
        VMamba-T | - | 286G | 47.4 | 69.5 | 52.0 | 42.7 | 66.3 | 46.0
        LocalVMamba-T | - | 291G | 46.7 | 68.7 | 50.8 | 42.2 | 65.7 | 45.5
        QuadMamba-S | - | 301G | 46.7 | 69.0 | 51.3 | 42.4 | 65.9 | 45.6
        MSVMamba-T | - | 252G | 46.9 | 68.8 | 51.4 | 42.2 | 65.6 | 45.4
        GrootV-T | - | 265G | 47.0 | 69.4 | 51.5 | 42.7 | 66.4 | 46.0
        = small
    """,
    '3': """
        ResNet-50 | 67M | 953G | 42.1 | 42.8
        Swin-T | 60M | 945G | 44.5 | 45.8
        ConvNeXt-T | 60M | 939G | 46.0 | 46.7
        NAT-T | 58M | 934G | 47.1 | 48.4
        Vim-S | 46M | - | 44.9 | -
        LocalVim-S | 58M | 297G | 46.4 | 47.5
        VMamba-T | 62M | 949G | 47.9 | 48.8
        PlainMamba-L2 | 55M | 285G | 46.8 | -
        LocalVMamba-T | 57M | 970G | 47.9 | 49.1
        MSVMamba-T | 65M | 942G | 47.6 | 48.5
        QuadMamba-S | 62M | 961G | 47.2 | 48.1
        GrootV-T | 60M | 941G | 48.5 | 49.4
        = small
    """,
    'B2': """
        ResNet-101 | - | 336G | 38.2 | 58.8 | 41.4 | 34.7 | 55.7 | 37.2
        Swin-S | - | 354G | 44.8 | 66.6 | 48.9 | 40.9 | 63.4 | 44.2
        ConvNeXt-S | - | 348G | 45.4 | 67.9 | 50.0 | 41.8 | 65.2 | 45.1
        VMamba-S | - | 400G | 48.2 | 69.7 | 52.5 | 43.0 | 66.6 | 46.4
        LocalVMamba-S | - | 414G | 48.4 | 69.9 | 52.7 | 43.2 | 66.7 | 46.5
        GrootV-S | - | 341G | 48.6 | 70.3 | 53.5 | 43.6 | 67.5 | 47.1
        = base
    """,
    'C3': """
        ResNet-101 | 85M | 1030G | 42.9 | 44.0
        Swin-S | 81M | 1039G | 47.6 | 49.5
        ConvNeXt-S | 60M | 939G | 46.0 | 46.7
        VMamba-S | 76M | 1081G | 49.5 | 50.5
        PlainMamba-L3 | 81M | 419G | 49.1 | -
        LocalVMamba-S | 81M | 1095G | 50.0 | 51.0
        QuadMamba-B | 82M | 1042G | 49.7 | 50.8
        GrootV-S | - | 1019G | 50.7 | 51.7
        = base
    """,
}


def published_rows(table):
    """Return the rows of a table in the paper's order.

    Args:
        table: '1', '2', '3', 'B2' or 'C3'; any other table compares DefMamba with nothing else.

    Returns:
        A list of (method, parameters, FLOPs, scores), all texts, scores a list; or of (arch,) for DefMamba's own rows.
    """
    rows = []
    for line in filter(None, map(str.strip, _TABLES.get(table, '').splitlines())):
        method, *cells = line.split(' | ')
        rows.append((method, *cells[:2], cells[2:]) if cells else (method.removeprefix('= '),))
    return rows
